"""What limits a load, by what was seen: each limit by its signs, in their order, with the option that moves it."""

from typing import Any

import numpy as np
import pytest

from llmload.metrics.totals import RunTotals
from llmload.record import Outcome, RequestRecord, Slo, TokenSource, Window
from llmload.runs.limits import Seen, limit_of, watched
from llmload.runs.summary_parts import EngineWindow
from tests.run_files import scenario_of

MS = 1_000_000
IDLE: dict[str, Any] = {
    "samples": 9,
    "running_mean": 2.0,
    "running_max": 2.0,
    "waiting_mean": 0.0,
    "waiting_max": 0.0,
    "kv_cache_usage_mean": 0.1,
    "kv_cache_usage_max": 0.2,
    "preemptions": 0.0,
    "ttft_mean_s": 0.098,
    "queue_mean_s": 0.0,
    "prefill_mean_s": 0.09,
    "decode_mean_s": 0.4,
}


def engine(**changes: Any) -> EngineWindow:
    return EngineWindow.model_validate({**dict.fromkeys(EngineWindow.model_fields), **IDLE, **changes})


def totals_of(*, lag_s: float = 0.0, **changes: Any) -> RunTotals:
    """Ten answers: TTFT 100 ms, 40 ms a token, 500 ms in all."""
    totals = RunTotals()
    for _ in range(10):
        known = {
            "request_id": "r",
            "prompt_id": "p",
            "started_ns": 0,
            "done_ns": 500 * MS,
            "outcome": Outcome.COMPLETED,
            "chunk_ns": np.arange(100, 501, 40, dtype=np.int64) * MS,
            "prompt_tokens": 10,
            "output_tokens": 11,
            "token_source": TokenSource.USAGE,
        }
        totals.started += 1
        totals.add(RequestRecord(**{**known, **changes}), window=Window(start_ns=0), slo=Slo(), run_start_ns=0)
    totals.distributions["event_loop_lag_s"].add_many(np.full(100, lag_s))
    return totals


OWN_TIMES = {"engine_queue_s": 0.0, "engine_prefill_s": 0.03, "engine_decode_s": 0.4}
CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    "an idle engine": ({"engine": engine()}, "nothing"),
    "a full KV cache": ({"engine": engine(kv_cache_usage_max=0.99, waiting_mean=3.0)}, "kv_cache"),
    "requests that were put back": ({"engine": engine(preemptions=2.0)}, "kv_cache"),
    "as many as may run, and others wait": ({"engine": engine(waiting_mean=3.0)}, "max_num_seqs"),
    "a queue that comes and goes": ({"engine": engine(waiting_mean=3.0, running_mean=1.0)}, "nothing"),
    "a client that is late": ({"engine": engine(), "totals": totals_of(lag_s=0.2)}, "client"),
    "a client that is late before a queue": (
        {"engine": engine(waiting_mean=3.0), "totals": totals_of(lag_s=0.2)},
        "max_num_seqs",
    ),
    "a client a little late": ({"engine": engine(), "totals": totals_of(lag_s=0.1)}, "nothing"),
    "a client without a core": ({"engine": engine(), "worker_cpu_share": 0.97}, "client"),
    "a proxy, by the engine's series": ({"engine": engine(ttft_mean_s=0.03)}, "network"),
    "a proxy, by the answers": ({"engine": None, "totals": totals_of(**OWN_TIMES)}, "network"),
    "a long way, by round trips": ({"engine": None, "totals": totals_of(rtt_s=0.08)}, "network"),
    "long prompts, by the engine's series": ({"engine": engine(prefill_mean_s=0.5)}, "prefill"),
    "long prompts, by the answers": (
        {"engine": engine(), "totals": totals_of(engine_prefill_s=0.5, engine_decode_s=0.1)},
        "prefill",
    ),
    "all of the bandwidth": ({"engine": engine(), "mbu": 0.7}, "bandwidth"),
    "some of the bandwidth": ({"engine": engine(), "mbu": 0.3}, "nothing"),
    "an engine without series": ({"engine": None}, None),
}


@pytest.mark.parametrize("name", CASES)
def test_each_limit_has_its_signs(name: str) -> None:
    seen, limit = CASES[name]
    found = limit_of(Seen(**{"totals": totals_of(), "mbu": None, **seen}), "vllm")

    assert (found and found.limit) == limit


@pytest.mark.parametrize(
    ("engine_name", "option"),
    [
        ("vllm", "--max-num-seqs"),
        ("sglang", "--max-running-requests"),
        ("llama.cpp", "-np"),
        ("other", "more requests"),
    ],
)
def test_the_option_is_the_engines_own(engine_name: str, option: str) -> None:
    found = limit_of(Seen(totals=totals_of(), engine=engine(waiting_mean=3.0), mbu=None), engine_name)

    assert found is not None
    assert option in found.remedy


def test_bandwidth_is_that_of_a_step_of_decode_and_counts_accepted_drafts() -> None:
    on_a_gpu = scenario_of(
        deployment={"gpu": "H100-SXM5-80GB", "gpus": 1},
        model={"name": "m", "catalogue": "Llama-3.1-8B-Instruct"},
        engine={"name": "vllm", "base_url": ["http://127.0.0.1:1"]},
    )
    fast: dict[str, Any] = {"chunk_ns": np.arange(100, 161, 6, dtype=np.int64) * MS}  # 6 ms a token, 4.5 at best
    drafted = {**fast, "drafts": 10, "draft_tokens": 30, "accepted_tokens": 20}

    def bound(**changes: Any) -> str | None:
        found = watched([], [], totals_of(**changes), on_a_gpu).limit
        return None if found is None else found.limit

    assert bound(**fast) == "bandwidth"
    assert bound(**drafted) is None
    found = watched([], [], totals_of(**drafted), on_a_gpu).speculation
    assert found is not None
    assert (found.source, found.accept_length) == ("requests", 3.0)
    assert found.acceptance_rate == pytest.approx(2 / 3)


def test_nothing_is_said_of_a_window_without_answers() -> None:
    assert watched([], [], RunTotals(), scenario_of()).limit is None


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ({"preemptions": 1.0}, "the KV cache was too small: 1 request put back, 20% in use"),
        ({"preemptions": 2.4, "kv_cache_usage_max": None}, "the KV cache was too small: 2 requests put back"),
        ({"kv_cache_usage_max": None}, "nothing shows: 2.0 requests ran in the mean"),
    ],
)
def test_what_the_engine_does_not_say_is_not_said(seen: dict[str, Any], says: str) -> None:
    limit = limit_of(Seen(totals=totals_of(), engine=engine(**seen), mbu=None), "vllm")

    assert limit is not None
    assert limit.text == says
