"""A fault of llmload's own, anywhere in a run, ends it with one plain line and an exit code; nothing hangs."""

from pathlib import Path

import pytest

from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario
from tests.loadgen.forked import ROOT

QUICK = {"ttft_s": 0.02, "prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 4}
BROKEN = """
from llmload.{module} import {cls}

original, calls = {cls}.{method}, []


def broken(*arguments, **further):
    calls.append(0)
    if len(calls) > {after}:
        raise ZeroDivisionError("on\\npurpose")
    return original(*arguments, **further)


{cls}.{method} = broken
exec(compile(open("{original}").read(), "{original}", "exec"))
"""
"""A locustfile in which one method of llmload fails after some calls."""


def break_one(scenario: Path, at: str, after: int = 0, locustfile: str = "chat.py") -> None:
    """Let a method (`loadgen.node.SendingNode._on_request`) fail in the runs of a scenario."""
    path, method = at.rsplit(".", 1)
    module, cls = path.rsplit(".", 1)
    original = f"{ROOT}/locustfiles/{locustfile}"
    broken = scenario.with_name("broken.py")
    broken.write_text(BROKEN.format(module=module, cls=cls, method=method, after=after, original=original))
    scenario.write_text(scenario.read_text().replace(f"{ROOT}/locustfiles/chat.py", str(broken)))


def lines_of_ours(ended: Ended) -> list[str]:
    return [line for line in ended.err.splitlines() if line.startswith("llmload: ")]


FAULTS = {
    "a request": ("loadgen.session.Session.send", 3, "a user's request failed"),
    "its count": ("loadgen.node.SendingNode._on_request", 3, "counting a request failed"),
    "a greenlet": ("loadgen.session.Session.keep_counting", 0, "counting requests failed"),
    "the supervision": (
        "loadgen.coordinating.CoordinatingNode._check_processes",
        0,
        "the supervision of processes failed",
    ),
    "the drain": ("loadgen.coordinator.Span.close", 0, "the end of the load failed"),
    "the summary": ("loadgen.coordinator.RunCoordinator.finish", 0, "the end of the run failed"),
}


@pytest.mark.parametrize("at", FAULTS)
@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one-process", "two-workers"])
def test_a_fault_in_a_run_ends_it_as_invalid(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, at: str, processes: tuple[str, ...]
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nrequests = 150", "[run]\ndrain_timeout_s = 1.0")
    method, after, says = FAULTS[at]
    break_one(scenario, method, after)

    ended = locust.run("--config", str(scenario), *processes, timeout_s=30.0)

    assert ended.code == 3, ended.err
    assert any(says in line and "ZeroDivisionError: on purpose" in line for line in lines_of_ours(ended)), ended.err
    assert "Traceback" not in ended.err + ended.out
    if at != "the summary":
        reasons = {reason["check"]: reason for reason in ended.summary["verdict"]["reasons"]}
        assert "ZeroDivisionError: on purpose" in reasons["internal_error"]["text"]
        assert reasons["internal_error"]["level"] == "INVALID"


@pytest.mark.parametrize(
    ("kind", "load", "locustfile", "at", "says"),
    [
        (
            "staged",
            "stages = [{ users = 2, duration_s = 20.0 }]",
            "chat_staged.py",
            "scenario.loads.Staged.users_at",
            "",
        ),
        (
            "capacity",
            'objectives = ["e2e_s p95 < 5"]',
            "chat_capacity.py",
            "loadgen.capacity_driver.CapacityDriver._warm_up",
            "the search failed",
        ),
        ("open_loop", "rate_per_s = 20\nrequests = 100", "chat.py", "loadgen.open_loop.Schedule._send", "the schedule"),
    ],
)
def test_a_fault_in_what_drives_a_load_ends_it(
    locust: Locust,
    engine: StartEngine,
    write_scenario: WriteScenario,
    kind: str,
    load: str,
    locustfile: str,
    at: str,
    says: str,
) -> None:
    scenario = write_scenario(engine(**QUICK).url, load, "[prompts]\nrepeat = true")
    scenario.write_text(scenario.read_text().replace('"closed_loop"', f'"{kind}"'))
    break_one(scenario, at, 4 if kind == "staged" else 0, locustfile)

    ended = locust.run("--config", str(scenario), timeout_s=30.0)

    assert ended.code == 3, ended.err
    assert ended.summary["verdict"]["reasons"][0]["check"] == "internal_error"
    assert any(says in line and "ZeroDivisionError: on purpose" in line for line in lines_of_ours(ended)), ended.err
    assert "Traceback" not in ended.err + ended.out


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one-process", "two-workers"])
@pytest.mark.parametrize("at", ["loadgen.live.LiveView.__init__", "loadgen.coordinator.RunCoordinator.open_folder"])
def test_a_fault_before_anything_was_sent_leaves_no_run(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, at: str, processes: tuple[str, ...]
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nrequests = 150")
    break_one(scenario, at)

    ended = locust.run("--config", str(scenario), *processes, timeout_s=30.0)

    assert ended.code == 2, ended.err
    assert [line.startswith("llmload: the start of the run failed: Zero") for line in lines_of_ours(ended)] == [True]
    assert "Traceback" not in ended.err + ended.out
    assert ended.found is None


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one-process", "two-workers"])
def test_a_listener_of_the_locustfile_that_fails_ends_the_run(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, processes: tuple[str, ...]
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 2\nduration_s = 60", "[prompts]\nrepeat = true")
    locustfile = scenario.with_name("listens.py")
    listener = "\n\nfrom locust import events\n\n"
    listener += "@events.request.add_listener\ndef listen(**_):\n    raise ZeroDivisionError\n"
    locustfile.write_text(Path("locustfiles/chat.py").read_text() + listener)

    ended = locust.run("--config", str(scenario), "-f", str(locustfile), *processes, timeout_s=30.0)

    assert ended.code == 3, ended.err
    first = ended.summary["verdict"]["reasons"][0]
    assert first["check"] == "internal_error"
    assert "a listener of the locustfile" in first["text"]
