"""A worker that dies is noticed, named in the verdict, and what it wrote down still counts."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUICK = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 4}


def children(process: "subprocess.Popen[str]") -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in listed.split()]


def test_a_killed_worker_makes_the_run_invalid_and_its_records_count(
    engine: Any, locust: Any, write_scenario: Callable[..., Path]
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 12", "[prompts]\nrepeat = true")

    process = locust.start("--config", str(scenario), "--headless", "--processes", "2")
    until_both_wrote(locust.out)
    os.kill(children(process)[0], signal.SIGKILL)
    ended = locust.finish(process)

    summary = ended.summary
    checks = {reason["check"]: reason for reason in summary["verdict"]["reasons"]}
    requests = summary["requests"]
    assert ended.code == 3, ended.err
    assert checks["missing_workers"]["figure"] == 1
    assert requests["started"] == requests["completed"] + requests["failed"] + requests["censored"] == len(ended.lines)


def until_both_wrote(out: Path, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        files = list(out.glob("*/requests.worker-*.jsonl"))
        if len(files) == 2 and all(file.stat().st_size for file in files):
            return
        time.sleep(0.1)
    raise TimeoutError("two workers never wrote a record")
