"""What limits a load at an engine, by what was seen in a window: an ordered table, the first that applies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmload.metrics.checks import health
from llmload.metrics.totals import RunTotals
from llmload.runs.build_summary import Watched, decode_bound
from llmload.runs.engine_window import Spans, engine_speculation, engine_window
from llmload.runs.samples import SampledPart
from llmload.runs.summary_parts import EngineWindow, Limit, Speculation
from llmload.scenario import Scenario
from llmload.sizing.speed import mbu
from llmload.units import amount, counted, milliseconds, number, percent

FULL: Final = 0.95
"""Share of the KV cache from which on it is full: a request needs some blocks at once."""
AT_PLATEAU: Final = 0.9
"""Mean of the running requests as a part of their most, from which on as many ran all the time as may run."""
LEAST_WAITING: Final = 0.5
"""Requests in the queue in the mean: fewer wait only for the next step."""
NETWORK_PART: Final = 0.5
"""Part of TTFT that is spent outside of the engine."""
LEAST_OUTSIDE_S: Final = 0.005
MOSTLY_PREFILL: Final = 0.5
"""Part of the engine's time on a request that is prefill."""
BANDWIDTH_BOUND: Final = 0.6
"""Part of the memory bandwidth from which on it is the limit: kernels do not reach much more."""
LATE_S: Final = 0.05
LATE_PART: Final = 0.25
"""A client is the limit that is late by both of these, the latter of what a request takes; less only blurs figures."""
BUSY_CORE: Final = 0.9
"""Part of a core from which on a process of the load can do no more."""
CLOSED_WINDOWS: Final = 0.01
"""Requests whose answers the client did not take for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen in a window: by the client, by the engine (None: it serves nothing), and of memory bandwidth."""

    totals: RunTotals
    engine: EngineWindow | None
    mbu: float | None
    """Memory bandwidth that decode used / what the GPUs have; None where GPU or model is not known."""
    worker_cpu_share: float | None = None


def watched(
    engines: Sequence[SampledPart],
    spans: Spans,
    totals: RunTotals,
    scenario: Scenario,
    worker_cpu_share: float | None = None,
) -> Watched:
    """Return what the engines said of a window, and what limited the load in it; spans on the samples' clock."""
    engine = engine_window(engines, spans)
    speculation = _of_requests(totals) or engine_speculation(engines, spans)
    seen = Seen(
        totals=totals,
        engine=engine,
        mbu=_decode_mbu(scenario, totals, speculation),
        worker_cpu_share=worker_cpu_share,
    )
    limit = limit_of(seen, scenario.engine.name) if totals.completed_in_window else None
    return Watched(engine=engine, speculation=speculation, limit=limit)


def _of_requests(totals: RunTotals) -> Speculation | None:
    """Return what speculative decoding did by the engine's account of each answer; None where it has none."""
    if not totals.draft_tokens:
        return None
    return Speculation(
        source="requests",
        drafts=totals.drafts or None,
        draft_tokens=totals.draft_tokens,
        accepted_tokens=totals.accepted_tokens,
        acceptance_rate=totals.accepted_tokens / totals.draft_tokens,
        accept_length=1 + totals.accepted_tokens / totals.drafts if totals.drafts else None,
        by_position=(),
    )


def _decode_mbu(scenario: Scenario, totals: RunTotals, speculation: Speculation | None) -> float | None:
    """Return the memory bandwidth of reading all weights once a step of decode / what the GPUs have."""
    tpot_s, bound = totals.distributions["tpot_s"].mean, decode_bound(scenario)
    if not tpot_s or bound is None:
        return None
    tokens_a_step = (speculation and speculation.accept_length) or 1.0
    return mbu(1 / tpot_s / tokens_a_step, bound)


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    applies: Callable[[Seen], str | None]
    """What shows it, in words; None where it does not apply."""
    remedy: Mapping[str, str]
    """The engine's option that moves the limit, by the engine's name; "" for any other."""


def limit_of(seen: Seen, engine_name: str) -> Limit | None:
    """Return what limits the load; None where an engine that says nothing of itself leaves that open."""
    for rule in _RULES:
        if (text := rule.applies(seen)) is not None:
            return Limit(limit=rule.name, text=text, remedy=rule.remedy.get(engine_name) or rule.remedy[""])
    return None


def _client(seen: Seen) -> str | None:
    totals, figures = seen.totals, health(seen.totals)
    lags_s = [figures["event_loop_lag_p99_s"], figures["schedule_lag_p99_s"]]
    late_s = max([each for each in lags_s if each is not None], default=0.0)
    takes_s = totals.distributions["e2e_s"].quantile(0.5) or 0.0
    if late_s > max(LATE_S, LATE_PART * takes_s):
        return f"it was late by {milliseconds(late_s)} ms (p99), of requests that take {milliseconds(takes_s)} ms"
    if (seen.worker_cpu_share or 0.0) > BUSY_CORE:
        return f"a process of the load used {percent(seen.worker_cpu_share, 0)} of a core"
    closed = figures["client_closed_window_share"] or 0.0
    return f"it took no more bytes of {percent(closed)} of the answers for a while" if closed > CLOSED_WINDOWS else None


def _kv_cache(seen: Seen) -> str | None:
    engine = seen.engine
    if engine is None:
        return None
    usage, preempted = engine.kv_cache_usage_max or 0.0, engine.preemptions or 0.0
    if preempted >= 1:
        used = "" if engine.kv_cache_usage_max is None else f", {percent(usage, 0)} in use"
        return f"the KV cache was too small: {counted(round(preempted), 'request')} put back{used}"
    return f"the KV cache was full: {percent(usage, 0)} in use" if usage > FULL else None


def _slots(seen: Seen) -> str | None:
    engine = seen.engine
    if engine is None or engine.running_mean is None or not engine.running_max:
        return None
    waiting = engine.waiting_mean or 0.0
    if waiting < LEAST_WAITING or engine.running_mean < AT_PLATEAU * engine.running_max:
        return None
    return f"{amount(engine.running_max)} requests ran, and {number(waiting, 1)} waited in the mean"


def _network(seen: Seen) -> str | None:
    ttft_s, outside_s = seen.totals.distributions["ttft_s"].mean, _outside_s(seen)
    if ttft_s is None or outside_s is None or outside_s < max(LEAST_OUTSIDE_S, NETWORK_PART * ttft_s):
        return None
    return f"{milliseconds(outside_s)} of {milliseconds(ttft_s)} ms of TTFT were spent before the engine or behind it"


def _outside_s(seen: Seen) -> float | None:
    """Return the mean part of TTFT that the engine does not account for; None where its queue is not known."""
    distributions = seen.totals.distributions
    if distributions["engine_queue_s"].count:
        return distributions["ttft_rest_s"].mean
    if seen.engine is not None and seen.engine.ttft_mean_s is not None and distributions["ttft_s"].mean is not None:
        return distributions["ttft_s"].mean - seen.engine.ttft_mean_s
    return distributions["rtt_s"].mean


def _prefill(seen: Seen) -> str | None:
    distributions, engine = seen.totals.distributions, seen.engine
    prefill_s, decode_s = distributions["engine_prefill_s"].mean, distributions["engine_decode_s"].mean
    if prefill_s is None and engine is not None:
        prefill_s, decode_s = engine.prefill_mean_s, engine.decode_mean_s
    if prefill_s is None or decode_s is None or prefill_s <= MOSTLY_PREFILL * (prefill_s + decode_s):
        return None
    took = f"{milliseconds(prefill_s)} of {milliseconds(prefill_s + decode_s)} ms"
    return f"prompts take the engine longer than answers: {took} of a request"


def _bandwidth(seen: Seen) -> str | None:
    if seen.mbu is None or seen.mbu < BANDWIDTH_BOUND:
        return None
    return f"decode reads the weights at {percent(seen.mbu, 0)} of the memory bandwidth"


def _nothing(seen: Seen) -> str | None:
    engine = seen.engine
    if engine is None or engine.running_mean is None:
        return None
    usage = engine.kv_cache_usage_max
    used = "" if usage is None else f", {percent(usage, 0)} of the KV cache was in use"
    return f"nothing shows: {number(engine.running_mean, 1)} requests ran in the mean{used}"


_RULES: Final = (
    _Rule(
        "kv_cache",
        _kv_cache,
        {
            "vllm": "--gpu-memory-utilization up, --kv-cache-dtype fp8, or --tensor-parallel-size up",
            "sglang": "--mem-fraction-static up, --kv-cache-dtype fp8_e5m2, or --tp up",
            "llama.cpp": "-c up, or -ctk q8_0 -ctv q8_0",
            "": "more memory for the KV cache, a smaller type of it, or more GPUs",
        },
    ),
    _Rule(
        "max_num_seqs",
        _slots,
        {
            "vllm": "--max-num-seqs up",
            "sglang": "--max-running-requests up",
            "llama.cpp": "-np up",
            "tgi": "--max-concurrent-requests and --max-batch-total-tokens up",
            "": "let the engine run more requests at a time",
        },
    ),
    _Rule("client", _client, {"": "--processes 2, or a machine apart from the engine's"}),
    _Rule(
        "network",
        _network,
        {"": "send from a machine nearer to the engine; look at proxies and the engine's HTTP server"},
    ),
    _Rule(
        "prefill",
        _prefill,
        {
            "vllm": "--enable-prefix-caching, --max-num-batched-tokens up, or prefill on other GPUs",
            "sglang": "--chunked-prefill-size up, or prefill on other GPUs",
            "llama.cpp": "-ub and -b up",
            "": "a prefix cache, larger prefill batches, or shorter prompts",
        },
    ),
    _Rule(
        "bandwidth",
        _bandwidth,
        {
            "vllm": "--quantization fp8, --tensor-parallel-size up, or --speculative-config",
            "sglang": "--quantization fp8, --tp up, or --speculative-algorithm",
            "": "smaller weights (a quantised model), more GPUs that share each layer, or speculative decoding",
        },
    ),
    _Rule("nothing", _nothing, {"": "a higher load: the engine takes more"}),
)
"""In this order: a queue in the engine shows that neither client nor network limits; a full cache makes a queue."""
