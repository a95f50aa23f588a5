"""A run that a signal ends says so first, with how much was done; its account is whole, and its exit code is 130."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from llmload.report.checks import Judgement, run_checks
from llmload.runs.folder import RunFolder
from llmload.scenario.reading import free_port
from tests.loadgen.conftest import (
    Ended,
    Locust,
    StartEngine,
    WriteScenario,
    truth,
    until_log_holds,
    until_requests_run,
)

QUICK = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 8}
ENDLESS = QUICK | {"output_tokens": 5000}
ALONE, FORKED = (), ("--processes", "2")
FROZEN = """
import gevent
from llmload.loadgen.session import Session
Session.abort = lambda self: gevent.sleep(60)
"""
HOW = pytest.mark.parametrize("processes", [ALONE, FORKED], ids=["one-process", "two-workers"])


def check_account(ended: Ended, log: Path) -> None:
    """Every request that the engine saw is counted, and has its line."""
    requests = ended.summary["requests"]
    assert requests["started"] == requests["completed"] + requests["failed"] + requests["censored"]
    assert requests["started"] == len(ended.lines) == len(truth(log))


def check_early(ended: Ended, text: str, code: int = 130) -> None:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err + ended.out
    first = ended.summary["verdict"]["reasons"][0]
    assert (first["check"], first["level"]) == ("ended_early", "INVALID")
    assert re.fullmatch(text, first["text"]), first["text"]
    assert text.split()[0] in ended.out, "the tables say it too"


@pytest.mark.parametrize(
    ("processes", "to"), [(ALONE, "all"), (FORKED, "all"), (FORKED, "the parent")], ids=["alone", "all", "parent"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_counted_load_early(
    engine: StartEngine,
    locust: Locust,
    write_scenario: WriteScenario,
    tmp_path: Path,
    processes: tuple[str, ...],
    number: signal.Signals,
    to: str,
) -> None:
    log = tmp_path / "truth.jsonl"
    gates = '[prompts]\nrepeat = true\n[gates]\nobjectives = ["ttft_s p95 < 5"]'
    scenario = write_scenario(engine(**QUICK, log=log).url, "users = 4\nrequests = 1000", gates)

    process = locust.start("--config", str(scenario), "--headless", *processes)
    until_log_holds(log, 8)
    if to == "all":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    ended = locust.finish(process, 20.0)

    check_early(ended, rf"{number.name} ended the run after \d+ of 1000 requests")
    check_account(ended, log)
    assert ended.summary["requests"]["censored"] == 0
    assert ended.summary["gates"][0]["passed"] is None
    assert ended.summary["gates"][0]["text"] == "ttft_s p95 < 5: not judged: the run was cut"
    assert "few_values" not in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}, "nor doubted"
    checks = {check.name: check.judgement for check in run_checks(RunFolder(ended.folder).summary())}
    assert checks["ttft_s p95 < 5"] is Judgement.SKIPPED


LOADS = {
    "timed": ("closed_loop", "users = 2\nduration_s = 60", "chat.py", r"[\d.]+ of 60 s"),
    "open": ("open_loop", "rate_per_s = 20\nrequests = 1000", "chat.py", r"\d+ of 1000 requests"),
    "replayed": ("replay", 'trace = "trace.csv"', "chat.py", r"[\d.]+ of 60 s"),
    "staged": (
        "staged",
        "stages = [{ users = 2, duration_s = 20 }, { users = 4, duration_s = 20 }]",
        "chat_staged.py",
        r"[\d.]+ of 40 s, in stage 1 of 2",
    ),
    "spike": (
        "spike",
        "base_rate_per_s = 10\nburst_rate_per_s = 20\nburst_s = 1\nperiod_s = 4\nduration_s = 60",
        "chat.py",
        r"[\d.]+ of 60 s",
    ),
    "search": ("capacity", 'objectives = ["e2e_s p95 < 5"]', "chat_capacity.py", r"0 steps of the search"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("load", LOADS)
def test_each_load_says_how_far_it_came(
    engine: StartEngine,
    locust: Locust,
    write_scenario: WriteScenario,
    tmp_path: Path,
    load: str,
    number: signal.Signals,
) -> None:
    kind, keys, locustfile, says = LOADS[load]
    log = tmp_path / "truth.jsonl"
    (tmp_path / "trace.csv").write_text("timestamp\n" + "\n".join(str(tenths / 10) for tenths in range(601)))
    scenario = write_scenario(engine(**QUICK, log=log).url, keys, "[prompts]\nrepeat = true")
    text = scenario.read_text().replace('"closed_loop"', f'"{kind}"').replace("chat.py", locustfile)
    scenario.write_text(text)

    process = locust.start("--config", str(scenario), "--headless")
    until_log_holds(log, 4)
    process.send_signal(number)
    ended = locust.finish(process, 20.0)

    check_early(ended, f"{number.name} ended the run after {says}")
    check_account(ended, log)


@HOW
def test_a_second_ctrl_c_cuts_what_is_in_flight_and_still_reports(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, processes: tuple[str, ...]
) -> None:
    log = tmp_path / "truth.jsonl"
    url = engine(**ENDLESS, log=log).url
    scenario = write_scenario(url, "users = 4\nduration_s = 600")

    process = locust.start("--config", str(scenario), "--headless", *processes)
    until_requests_run(url, 4)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(1)
    ended = locust.finish(process)

    check_early(ended, r"SIGINT ended the run after [\d.]+ of 600 s")
    assert (ended.summary["requests"]["started"], ended.summary["requests"]["censored"]) == (4, 4)
    check_account(ended, log)


def test_a_second_ctrl_c_on_the_master_alone_cuts_what_its_workers_have_in_flight(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**ENDLESS).url
    scenario = write_scenario(url, "users = 4\nduration_s = 600")

    process = locust.start("--config", str(scenario), "--headless", "--processes", "2")
    until_requests_run(url, 4)
    for _ in range(2):
        process.send_signal(signal.SIGINT)  # as on another machine than the workers', which hear nothing
        time.sleep(1)
    ended = locust.finish(process)

    check_early(ended, r"SIGINT ended the run after [\d.]+ of 600 s")
    assert (ended.summary["requests"]["started"], ended.summary["requests"]["censored"]) == (4, 4)
    assert len(ended.lines) == 4
    assert "missing_workers" not in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}


@HOW
def test_the_drain_at_sigterm_has_a_limit(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, processes: tuple[str, ...]
) -> None:
    log = tmp_path / "truth.jsonl"
    url = engine(**ENDLESS, log=log).url
    scenario = write_scenario(url, "users = 4\nduration_s = 600")

    process = locust.start("--config", str(scenario), "--headless", "--drain-on-sigterm", "1.5", *processes)
    until_requests_run(url, 4)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    ended = locust.finish(process, 20.0)

    assert 1.5 < time.monotonic() - began < 8
    check_early(ended, r"SIGTERM ended the run after [\d.]+ of 600 s")
    assert ended.summary["requests"]["censored"] == 4
    check_account(ended, log)


@HOW
def test_a_signal_after_the_load_was_done_cuts_requests_but_not_the_load(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, processes: tuple[str, ...]
) -> None:
    log = tmp_path / "truth.jsonl"
    url = engine(**ENDLESS | {"output_tokens": 900}, log=log).url
    scenario = write_scenario(url, "users = 4\nduration_s = 2")

    process = locust.start("--config", str(scenario), "--headless", "--loglevel", "INFO", *processes)
    until_requests_run(url, 4)
    time.sleep(4)  # the load is over, and drains
    process.send_signal(signal.SIGINT)
    ended = locust.finish(process, 20.0)

    assert ended.code == 130, ended.err
    checks = [reason["check"] for reason in ended.summary["verdict"]["reasons"]]
    assert "ended_early" not in checks
    assert ended.summary["requests"]["censored"] == 4
    check_account(ended, log)


def test_a_signal_that_cuts_nothing_changes_nothing(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    url = engine(**QUICK | {"output_tokens": 200}).url
    scenario = write_scenario(url, "users = 4\nrequests = 4")

    process = locust.start("--config", str(scenario), "--headless")
    until_requests_run(url, 4)
    process.send_signal(signal.SIGTERM)
    ended = locust.finish(process, 20.0)

    assert ended.code == 0, ended.err
    assert ended.summary["requests"]["completed"] == 4
    assert "ended_early" not in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}


def test_a_third_ctrl_c_ends_at_once(engine: StartEngine, locust: Locust, write_scenario: WriteScenario) -> None:
    url = engine(**ENDLESS).url
    scenario = write_scenario(url, "users = 2\nduration_s = 600")
    frozen = (
        "import gevent\nfrom llmload.loadgen.session import Session\nSession.abort = lambda self: gevent.sleep(60)\n"
    )
    locustfile = scenario.with_name("frozen.py")
    locustfile.write_text(frozen + Path("locustfiles/chat.py").read_text())

    process = locust.start("--config", str(scenario), "--headless", "-f", str(locustfile))
    until_requests_run(url, 2)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    ended = locust.finish(process, 10.0)

    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    (line,) = (line for line in ended.err.splitlines() if line.startswith("llmload: "))
    assert line == f"llmload: ended at once by SIGINT: llmload report {ended.folder} shows what it has"


def test_the_option_that_limits_a_counted_load_cuts_it(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 2\nrequests = 200", "[prompts]\nrepeat = true")

    by_option = locust.run("--config", str(scenario), "--run-time", "2")
    by_key = locust.run("--config", str(scenario), "--set", "load.duration_s=2")

    check_early(by_option, r"--run-time ended the run after \d+ of 200 requests", code=3)
    assert by_key.code == 0, "requests or time, whichever comes first, is what the scenario says"


@HOW
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_the_engine_is_asked_sends_nothing(
    locust: Locust, write_scenario: WriteScenario, tmp_path: Path, number: signal.Signals, processes: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        scenario = write_scenario(f"http://127.0.0.1:{port}", "users = 4\nrequests = 10")
        process = locust.start("--config", str(scenario), "--headless", *processes)
        with silent.accept()[0]:
            os.killpg(process.pid, number)
            ended = locust.finish(process, 10.0)

    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err + ended.out
    ours = [line for line in ended.err.splitlines() if line.startswith("llmload: ")]
    assert ours == [f"llmload: ended by {number.name} before the run began: nothing was sent"]
    assert ended.found is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_a_master_waits_for_workers(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, number: signal.Signals
) -> None:
    scenario = str(write_scenario(engine(**QUICK).url, "users = 4\nrequests = 10"))
    port = str(free_port())
    master = locust.start(
        "--config", scenario, "--headless", "--master", "--master-bind-port", port, "--expect-workers", "2"
    )
    worker = locust.start("--config", scenario, "--worker", "--master-port", port)
    assert master.stderr is not None
    while b"1 of 2 connected" not in master.stderr.readline():
        pass
    master.send_signal(number)
    ended, left = locust.finish(master, 10.0), locust.finish(worker, 10.0)

    assert ended.code == 130, ended.err
    assert f"llmload: ended by {number.name} before the run began: nothing was sent" in ended.err
    assert "Traceback" not in ended.err + left.err
    assert left.code == 0, left.err


def test_sigterm_to_the_parent_of_workers_alone_lets_them_drain(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    log = tmp_path / "truth.jsonl"
    scenario = str(
        write_scenario(engine(**QUICK, log=log).url, "users = 4\nduration_s = 60", "[prompts]\nrepeat = true")
    )
    port = str(free_port())
    master = locust.start(
        *("--config", scenario, "--headless", "--master", "--master-bind-port", port, "--expect-workers", "2")
    )
    workers = locust.start("--config", scenario, "--worker", "--master-port", port, "--processes", "2")
    until_log_holds(log, 8)
    workers.send_signal(signal.SIGTERM)
    left, ended = locust.finish(workers, 20.0), locust.finish(master, 20.0)

    assert left.code == 130, left.err
    assert ended.code == 3, ended.err
    assert ended.summary["verdict"]["reasons"][0]["check"] == "missing_workers"
    assert ended.summary["requests"]["censored"] == 0
    check_account(ended, log)
