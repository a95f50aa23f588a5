"""Run folders of the virtual engine, written by the code that writes real ones."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from benchmarks.tools.virtual_engine import Clock, Floats, Load, Noise, VirtualEngine, VirtualRequest
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Verdict
from llmload.prompts.workload import PromptPlan, Workload
from llmload.prompts.workload import load as load_prompts
from llmload.record import ErrorType, Outcome, RequestError, RequestRecord, StampSource, TokenSource, Window
from llmload.runs.build_summary import RunOutcome, build_summary
from llmload.runs.folder import MANIFEST, SUMMARY, Manifest, RunFolder
from llmload.runs.requests import RequestLog
from llmload.scenario import Scenario
from llmload.simulator import SimulationSettings
from llmload.simulator.protocol import ApiStyle, parse_request
from llmload.units import NS_PER_S

SETTINGS: Final = SimulationSettings()
MAX_TOKENS: Final = 64
WARMUP_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system to measure: the engine's settings, slowness, noise, and error rate."""

    settings: SimulationSettings = SETTINGS
    slowness: float = 1.0
    noise: Noise = field(default_factory=Noise)
    error_share: float = 0.0

    def slower(self, kind: str, share: float) -> "System":
        """Return a system whose `kind` (`all`, `prefill` or `decode`) is slower by a fraction."""
        own = self.settings
        match kind:
            case "all":
                return replace(self, slowness=self.slowness * (1 + share))
            case "prefill":
                settings = replace(
                    own, ttft_s=own.ttft_s * (1 + share), prefill_s_per_token=own.prefill_s_per_token * (1 + share)
                )
            case "decode":
                settings = replace(own, itl_s=own.itl_s * (1 + share))
            case _:
                raise ValueError(f"{kind!r} is not one of all, prefill, decode")
        return replace(self, settings=settings)


def write_run(folder: Path, system: System, load: Load, seed: int, *, changes: Mapping[str, Any] | None = None) -> Path:
    """Measure the system in virtual time and write a run folder; `seed` sets the noise, prompts are always the same."""
    rng = np.random.default_rng(seed)
    clock = Clock.disturbed(system.noise, load.duration_s + 60, system.slowness, rng)
    engine = VirtualEngine(settings=system.settings, load=load, clock=clock, rng=rng)
    run = RunFolder(folder)
    run.create()
    scenario, workload = _scenario(load, changes or {}), _workload()
    began_ns, offset_ns = time.monotonic_ns(), time.time_ns() - time.monotonic_ns()
    log = RequestLog(folder / "requests.jsonl", with_chunks=scenario.run.record_chunks)
    totals = RunTotals()
    warmup_ns, end_ns = round(WARMUP_S * NS_PER_S), round(load.duration_s * NS_PER_S)
    window = Window(start_ns=began_ns + warmup_ns, end_ns=began_ns + end_ns)
    for index, (request, stamps_s) in enumerate(engine.answer(_requests(workload))):
        started_s = float(clock.to_wall(np.array([request.started]))[0])
        record = _record(f"{folder.name}-0-{index + 1}", request, began_ns, started_s, stamps_s, rng)
        if rng.random() < system.error_share:
            record = _failed(record)
        totals.started += 1
        totals.add(record, window=window, slo=scenario.slo_limits(), run_start_ns=began_ns)
        log.append([record])
    log.close()
    window_s = (end_ns - warmup_ns) / NS_PER_S
    outcome = RunOutcome(
        run_id=folder.name,
        scenario=scenario,
        simulated=True,
        totals=totals,
        judged=totals,
        window_s=window_s,
        window_started_unix_s=(began_ns + warmup_ns + offset_ns) / NS_PER_S,
        verdict=Verdict.of(),
    )
    run.write(SUMMARY, build_summary(outcome))
    manifest = Manifest.at_start(
        run_id=folder.name,
        started_unix_s=(began_ns + offset_ns) / NS_PER_S,
        scenario=scenario,
        scenario_file=Path("virtual.toml"),
        workload=workload,
        engine={"base_url": "", "version": "virtual", "models": [], "simulated": True, "answers": {}},
        simulated=True,
        workers=1,
    )
    run.write(MANIFEST, manifest)
    return folder


@cache
def _workload() -> Workload:
    return load_prompts(PromptPlan(repeat=True), Path.cwd())


def _scenario(load: Load, changes: Mapping[str, Any]) -> Scenario:
    tables: dict[str, Any] = {
        "scenario": {"name": "virtual", "protocol": "throughput"},
        "engine": {"name": "simulated", "base_url": "http://127.0.0.1:1"},
        "model": {"name": "simulated"},
        "prompts": {"repeat": True},
        "request": {"max_tokens": MAX_TOKENS},
        "load": {"duration_s": load.duration_s, "warmup_s": WARMUP_S},
    }
    if load.users is not None:
        tables["load"] |= {"kind": "closed_loop", "users": load.users}
    else:
        tables["load"] |= {"kind": "open_loop", "rate_per_s": load.rate_per_s}
    for key, value in changes.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, {})[name] = value
    return Scenario.model_validate(tables)


@cache
def _lengths() -> dict[str, tuple[int, int]]:
    lengths = {}
    for conversation in _workload().conversations:
        for prompt in conversation.prompts:
            body = orjson.dumps({"messages": list(prompt.messages), "max_tokens": MAX_TOKENS})
            request = parse_request(SETTINGS, ApiStyle.CHAT, True, body)
            lengths[prompt.prompt_id] = (request.prompt_tokens, request.output_tokens)
    return lengths


def _requests(workload: Workload) -> Iterator[VirtualRequest]:
    lengths, queue = _lengths(), workload.queue(0, 1)
    while (conversation := queue.next()) is not None:
        for prompt in conversation.prompts:
            prompt_tokens, output_tokens = lengths[prompt.prompt_id]
            yield VirtualRequest(prompt_id=prompt.prompt_id, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def _record(
    request_id: str,
    request: VirtualRequest,
    began_ns: int,
    started_s: float,
    stamps_s: Floats,
    rng: np.random.Generator,
) -> RequestRecord:
    network_s = rng.exponential(0.0002, len(stamps_s))  # the way to the client
    stamps_ns = np.maximum.accumulate(((stamps_s + network_s) * NS_PER_S).astype(np.int64)) + began_ns
    started_ns = began_ns + round(started_s * NS_PER_S)
    return RequestRecord(
        request_id=request_id,
        prompt_id=request.prompt_id,
        started_ns=started_ns,
        sent_ns=started_ns,
        done_ns=int(stamps_ns[-1]) + 100_000,
        outcome=Outcome.COMPLETED,
        chunk_ns=stamps_ns,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        token_source=TokenSource.USAGE,
        stamp_source=StampSource.KERNEL,
        finish_reason="stop",
    )


def _failed(record: RequestRecord) -> RequestRecord:
    error = RequestError(type=ErrorType.HTTP_SERVER_ERROR, message="HTTP 500", http_status=500)
    return replace(record, outcome=Outcome.FAILED, chunk_ns=record.chunk_ns[:0], output_tokens=None, error=error)
