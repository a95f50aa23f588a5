"""
How long a report of a long run takes, and how much memory: `python -m benchmarks.trials.report`.

Writes run folders of a million requests by two workers, with 32 chunk gaps a line and with none, and runs
`llmload report` once for each output file. FAIL where one needs 60 s of CPU time or 2 GB, or more; on an idle machine,
wall-clock time is the same.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from llmload.metrics.requests import LINE_KEYS
from llmload.prompts.workload import PromptPlan
from llmload.prompts.workload import load as load_prompts
from llmload.runs.folder import MANIFEST, Manifest, RunFolder, RunTimes
from llmload.scenario import Scenario

REQUESTS: Final = 1_000_000
WORKERS: Final = 2
GAPS: Final = (32, 0)
MAX_S: Final = 60.0
MAX_BYTES: Final = 2_000_000_000
USERS: Final = 400
WARMUP_S: Final = 2.0
FORMS: Final = {"--html": "report.html", "--csv": "requests.csv", "--parquet": "requests.parquet"}
_BLOCK: Final = 10_000


def write_folder(folder: Path, requests: int, gaps: int) -> None:
    """Write the folder of a closed loop that ended without a summary, so that every figure must be recomputed."""
    folder.mkdir()
    started_s, rng = 1_750_000_000.0, np.random.default_rng(gaps)
    length_s = requests * 1.0 / USERS
    warmup_s = min(WARMUP_S, length_s / 2)
    scenario = Scenario.model_validate(
        {
            "scenario": {"name": "long", "protocol": "throughput"},
            "engine": {"name": "simulated", "base_url": ["http://127.0.0.1:1"]},
            "model": {"name": "made up"},
            "load": {"kind": "closed_loop", "users": USERS, "duration_s": length_s, "warmup_s": warmup_s},
            "slo": {"ttft_s": 0.2},
        }
    )
    manifest = Manifest.at_start(
        run_id=folder.name,
        started_unix_s=started_s,
        scenario=scenario,
        scenario_file=Path("long.toml"),
        workload=load_prompts(PromptPlan(), Path.cwd()),
        engine=None,
        simulated=True,
        workers=WORKERS,
    )
    times = RunTimes(window_start_unix_s=started_s + warmup_s, window_end_unix_s=started_s + length_s, stages=())
    RunFolder(folder).write(MANIFEST, manifest.with_times(times, None))
    for worker in range(WORKERS):
        count = requests // WORKERS
        with (folder / f"requests.worker-{worker}.jsonl").open("wb") as file:
            for first in range(0, count, _BLOCK):
                for line in _lines(worker, first, min(_BLOCK, count - first), gaps, count, length_s, started_s, rng):
                    file.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))


def _lines(
    worker: int, first: int, count: int, gaps: int, of: int, length_s: float, started_s: float, rng: np.random.Generator
) -> Any:
    begins_s = (np.arange(first, first + count) + rng.random(count)) / of * (length_s - 2)
    chunk_gaps = (rng.lognormal(-3.6, 0.4, (count, max(gaps, 32))) * 1e9).astype(np.int64)
    tokens = rng.integers(20, 60, count)
    for index in range(count):
        begin_ns = round(begins_s[index] * 1e9) + 10**12
        ttft_ns, last_ns = int(chunk_gaps[index, 0]), int(chunk_gaps[index].sum())
        failed = index % 100 == 0
        e2e_ns = last_ns + 200_000
        yield {
            **dict.fromkeys(LINE_KEYS),
            "request_id": f"20250615-150640-long-0000-{worker}-{first + index}",
            "prompt_id": str(index % 300),
            "outcome": "failed" if failed else "completed",
            "time_s": started_s + float(begins_s[index]),
            "ttft_s": ttft_ns / 1e9,
            "tpot_s": (last_ns - ttft_ns) / 1e9 / (int(tokens[index]) - 1),
            "e2e_s": e2e_ns / 1e9,
            "output_tokens_per_s": None if failed else int(tokens[index]) / e2e_ns * 1e9,
            "prompt_tokens": 40 + index % 100,
            "output_tokens": int(tokens[index]),
            "cached_tokens": None,
            "reasoning_tokens": None,
            "token_source": "usage",
            "finish_reason": "stop",
            "stamp_source": "kernel",
            "chunks": 32,
            "coalesced_chunks": 0,
            "same_segment_chunks": 0,
            "reasoning_chunks": 0,
            "reconnects": 0,
            "retries": 0,
            "error": {"type": "reset", "message": "by peer", "http_status": None, "retry_after_s": None}
            if failed
            else None,
            "stage": None,
            "name": None,
            "scheduled_ns": None,
            "started_ns": begin_ns,
            "connected_ns": None,
            "sent_ns": begin_ns + 10_000,
            "done_ns": begin_ns + e2e_ns,
            **({"chunk_gaps_ns": chunk_gaps[index], "chunk_tokens": None} if gaps else {}),
        }


def measure(folder: Path, option: str, file: Path) -> tuple[float, float, int]:
    """Return the wall-clock and CPU seconds of `llmload report` for a file, and its peak memory in bytes."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "llmload.cli.main", "report", str(folder), option, str(file)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - began_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main(arguments: list[str] | None = None) -> int:
    """Run the trial; return 0 where every requirement is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials.report", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options = parser.parse_args(arguments)
    met = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as temporary:
        for gaps in GAPS:
            folder = Path(temporary) / f"long-{gaps}"
            write_folder(folder, options.requests, gaps)
            size = sum(file.stat().st_size for file in folder.iterdir())
            print(f"\n{options.requests:,} requests, {gaps} chunk gaps a line, {size / 1e9:.2f} GB")
            print("| file | wall, s | CPU, s | peak RSS, GB | written, MB | |\n|---|---:|---:|---:|---:|---|")
            for option, name in FORMS.items():
                file = Path(temporary) / name
                wall_s, cpu_s, rss = measure(folder, option, file)
                good = cpu_s < MAX_S and rss < MAX_BYTES
                met &= good
                written = file.stat().st_size / 1e6
                file.unlink()
                print(
                    f"| {name} | {wall_s:.1f} | {cpu_s:.1f} | {rss / 1e9:.2f} | {written:.1f} "
                    f"| {'PASS' if good else 'FAIL'} |",
                    flush=True,
                )
            for old in folder.iterdir():
                old.unlink()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
