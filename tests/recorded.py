"""Run folders with requests whose figures are known, for the tests of reports."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llmload.record import (
    AFTER_ACKNOWLEDGEMENT,
    AT_ONCE,
    ErrorType,
    Outcome,
    ReasoningSource,
    RequestError,
    RequestRecord,
    StampSource,
    TokenSource,
    stamps_of,
)
from llmload.runs.requests import RequestLog
from llmload.units import NS_PER_S
from tests import run_files
from tests.run_files import scenario_of

LIMITS = {"ttft_s": 0.2, "tpot_s": 0.05, "e2e_s": None}
LOAD = {"kind": "closed_loop", "users": 4, "duration_s": 30.0, "requests": None, "warmup_s": 5.0}


_SOURCES = {0: TokenSource.CHUNKS, 7: TokenSource.CHUNKS_OVER_USAGE}


def records(count: int, *, seed: int = 0, lasts_s: float = 30.0, open_loop: bool = False) -> list[RequestRecord]:
    """Requests of all kinds: most complete, some failed in either way, some cut, some with nothing known."""
    random = np.random.default_rng(seed)
    now_ns = time.monotonic_ns()
    return [_record(index, random, now_ns, lasts_s, open_loop=open_loop) for index in range(count)]


_STAMPS = (StampSource.PACKET, StampSource.KERNEL, StampSource.USER)


def _record(index: int, random: np.random.Generator, now_ns: int, lasts_s: float, *, open_loop: bool) -> RequestRecord:
    started_ns = now_ns + int(random.uniform(0, lasts_s - 3) * NS_PER_S)
    outcome = [Outcome.COMPLETED, Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED, Outcome.CENSORED][index % 5]
    chunks = int(random.integers(0, 12))
    gaps_ns = (random.lognormal(-3, 0.6, chunks) * NS_PER_S).astype(np.int64) * (random.random(chunks) > 0.05)
    stamps = stamps_of(started_ns, gaps_ns.tolist())
    thought = 0 if index % 8 else chunks if index % 3 == 0 else chunks // 2
    done_ns = int(stamps[-1]) + 1_000_000 if chunks else started_ns + 20_000_000
    error = None
    if outcome is Outcome.FAILED:
        kind = [ErrorType.RESET, ErrorType.HTTP_SERVER_ERROR][index // 5 % 2]
        error = RequestError(type=kind, message=f"number {index}", http_status=500)
    return RequestRecord(
        request_id=f"r-{index}",
        prompt_id=f"p-{index}",
        started_ns=started_ns,
        done_ns=done_ns,
        outcome=outcome,
        scheduled_ns=started_ns - int(random.integers(0, 50_000_000)) if open_loop else None,
        chunk_ns=stamps,
        prompt_tokens=(prompt_tokens := None if index % 7 == 0 else int(random.integers(5, 900))),
        output_tokens=(output_tokens := None if index % 11 == 0 else int(random.integers(0, 2 * chunks + 1))),
        asked_prompt_tokens=None if index % 6 else prompt_tokens,
        asked_output_tokens=None if index % 10 else output_tokens or None,
        reasoning_tokens=None if index % 4 else index % 9,
        reasoning_source=None
        if index % 4 or not index % 9
        else [ReasoningSource.USAGE, ReasoningSource.CHUNKS][index % 3 % 2],
        reasoning_chunks=thought,
        engine_queue_s=None if index % 6 else 0.001 * (index % 5),
        engine_prefill_s=None if index % 6 else 0.002,
        engine_decode_s=None if index % 6 else 0.1,
        drafts=None if index % 6 else 5,
        draft_tokens=None if index % 6 else 10,
        accepted_tokens=None if index % 6 else 7,
        first_answer_ns=int(stamps[thought]) if 0 < thought < chunks else None,
        cached_tokens=None if index % 3 else int(random.integers(0, 5)),
        token_source=_SOURCES.get(index % 13, TokenSource.USAGE),
        finish_reason=[None, "stop", "length"][index % 3],
        error=error,
        stamp_source=_STAMPS[index % 17 % 3],
        wire_sent_ns=None if index % 17 % 3 else started_ns + 40_000,
        rtt_s=None if index % 17 % 3 else 0.00003,
        retransmissions=None if index % 17 % 3 else int(index % 29 == 0),
        late_segments=None if index % 17 % 3 else int(index % 43 == 0),
        engine_closed_windows=None if index % 17 % 3 else int(index % 37 == 0),
        client_closed_windows=None if index % 17 % 3 else int(index % 31 == 0),
        missed_bytes=None if index % 17 % 3 else 100 * int(index % 41 == 0),
        engine_writes=None if index % 17 % 3 else [None, AT_ONCE, AFTER_ACKNOWLEDGEMENT][index % 5 % 3],
        reset_by="engine" if error is not None and error.type is ErrorType.RESET else None,
        reconnects=int(index % 19 == 0),
        retries=int(index % 23 == 0),
    )


def write_folder(
    folder: Path,
    of: Iterable[RequestRecord],
    *,
    with_chunks: bool = True,
    manifest: dict[str, Any] | None = None,
    file: str = "requests.jsonl",
) -> Path:
    """A run folder as a run without its end leaves it: no summary."""
    folder.mkdir(exist_ok=True)
    log = RequestLog(folder / file, with_chunks=with_chunks)
    for record in of:
        log.append([record])
    log.close()
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(), **(manifest or {})}))
    return folder


def manifest_of(load: dict[str, Any] | None = None) -> dict[str, Any]:
    now_s = time.time()
    scenario = scenario_of(
        scenario={"name": "known", "protocol": "throughput"},
        load=load or LOAD,
        slo=LIMITS,
    )
    timeline = {"window_start_unix_s": now_s + 5.0, "window_end_unix_s": now_s + 20.0, "stages": []}
    manifest = run_files.manifest_of(
        scenario, run_id="20260101-000000-known-0001", started_unix_s=now_s, timeline=timeline, simulated=True
    )
    return manifest.model_dump(mode="json")
