"""A worker that dies is noticed, named in the verdict, and what it wrote down still counts."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmload.units import NS_PER_S
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario
from tests.loadgen.forked import Forked

ROOT = Path(__file__).parents[2]
SLOW_TO_READ = """
from locust import events
from gevent.monkey import get_original
from llmload.loadgen import preparation
from llmload.loadgen.users import install
from llmload.loadgen.users import ChatUser

read = preparation.load_prompts


def read_slowly(*arguments):
    get_original("time", "sleep")(6)  # as a parser does, without letting any greenlet run
    return read(*arguments)


preparation.load_prompts = read_slowly


install(events)


class Chat(ChatUser):
    pass
"""
HASTY = """
from locust import events
from llmload.loadgen import worker
from llmload.loadgen.users import install
from llmload.loadgen.users import ChatUser

worker.LEAVE_GRACE_S = 2.0
install(events)


class Chat(ChatUser):
    pass
"""
QUICK = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 4}


def children(process: Forked) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in listed.split()]


def test_a_killed_worker_makes_the_run_invalid_and_its_records_count(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
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


def test_a_run_that_lost_every_worker_ends(engine: StartEngine, locust: Locust, write_scenario: WriteScenario) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 600", "[prompts]\nrepeat = true")

    process = locust.start("--config", str(scenario), "--headless", "--processes", "2")
    until_both_wrote(locust.out)
    for worker in children(process):
        os.kill(worker, signal.SIGKILL)
    ended = locust.finish(process)

    checks = {reason["check"]: reason for reason in ended.summary["verdict"]["reasons"]}
    assert ended.code == 3, ended.err
    assert checks["missing_workers"]["figure"] == 2
    assert ended.summary["requests"]["started"] == len(ended.lines)


def test_a_worker_that_leaves_before_the_end_is_missed(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    hasty = tmp_path / "hasty.py"
    hasty.write_text(HASTY)
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 12", "[prompts]\nrepeat = true")
    scenario.write_text(scenario.read_text().replace(f"{ROOT}/locustfiles/chat.py", str(hasty)))

    process = locust.start("--config", str(scenario), "--headless", "--processes", "2")
    until_both_wrote(locust.out)
    os.kill(children(process)[0], signal.SIGINT)  # Ctrl-C on the machine of that worker
    ended = locust.finish(process)

    assert ended.code == 3, ended.err
    assert "missing_workers" in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}
    assert ended.summary["requests"]["started"] == ended.summary["requests"]["completed"] == len(ended.lines)


def test_a_worker_that_is_deaf_for_a_while_still_reports_all_it_sent(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 15", "[prompts]\nrepeat = true")

    process = locust.start("--config", str(scenario), "--headless", "--processes", "2")
    until_both_wrote(locust.out)
    worker = children(process)[0]
    os.kill(worker, signal.SIGSTOP)
    time.sleep(7)
    os.kill(worker, signal.SIGCONT)
    ended = locust.finish(process)

    requests = ended.summary["requests"]
    assert ended.code == 3, ended.err
    assert "missing_workers" in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}
    assert requests["started"] == requests["completed"] + requests["failed"] == len(ended.lines)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_master_that_is_gone_ends_its_workers_within_five_seconds(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, number: signal.Signals
) -> None:
    """They write down what they sent and say why they end; a master that comes back calls the run INVALID."""
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 600", "[prompts]\nrepeat = true")
    process = locust.start("--config", str(scenario), "--headless", "--processes", "2")
    until_both_wrote(locust.out)
    workers = children(process)

    os.kill(process.pid, number)
    gone_ns = time.monotonic_ns()
    until(lambda: not any(map(lives, workers)), "workers to end", 20.0)
    if number is signal.SIGSTOP:
        os.kill(process.pid, signal.SIGCONT)
    ended = locust.finish(process)

    lines = ended.lines
    assert ended.err.count("llmload: the master ") == 2, ended.err
    assert max(line["started_ns"] for line in lines) < gone_ns + 5 * NS_PER_S
    if number is signal.SIGSTOP:
        checks = {reason["check"]: reason for reason in ended.summary["verdict"]["reasons"]}
        requests = ended.summary["requests"]
        assert ended.code == 3, ended.err
        assert checks["missing_workers"]["figure"] == 2
        assert checks["paused_s"]["figure"] > 3
        assert requests["started"] == requests["completed"] + requests["censored"] == len(lines)


def test_a_master_that_is_stopped_for_less_loses_no_worker(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 8", "[prompts]\nrepeat = true")
    process = locust.start("--config", str(scenario), "--headless", "--processes", "2")
    until_both_wrote(locust.out)

    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGCONT)
    ended = locust.finish(process)

    assert not {"missing_workers", "paused_s"} & {reason["check"] for reason in ended.summary["verdict"]["reasons"]}
    assert ended.summary["requests"]["started"] == ended.summary["requests"]["completed"] == len(ended.lines)


def test_prompts_that_take_long_to_read_lose_no_worker(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(SLOW_TO_READ)
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 3", "[prompts]\nrepeat = true")
    scenario.write_text(scenario.read_text().replace(f"{ROOT}/locustfiles/chat.py", str(slow)))

    ended = locust.run("--config", str(scenario), "--processes", "2")

    assert "missing_workers" not in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}, ended.err
    assert ended.summary["requests"]["started"] == len(ended.lines) > 0


def test_a_worker_of_another_machine_has_another_name() -> None:
    asked = f"runs_here('{socket.gethostname()}_0123456789abcdef'), runs_here('another_machine_0123456789abcdef')"
    # In another process, since Locust would patch this one.
    program = f"from llmload.loadgen.locust_compat import runs_here; print({asked})"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said == "True False\n"


def until_both_wrote(out: Path) -> None:
    def both_wrote() -> bool:
        files = list(out.glob("*/requests.worker-*.jsonl"))
        return len(files) == 2 and all(file.stat().st_size for file in files)

    until(both_wrote, "two workers to write a record", 30.0)


def until(holds: Callable[[], bool], what: str, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.1)


def lives(pid: int) -> bool:
    """Whether a process has not ended; one that its parent has not waited for has."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
