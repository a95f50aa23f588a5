"""A run that measured nothing is INVALID, says why, and prints no figure."""

import time
from typing import Any

import pytest

from llmload.loadgen.phases import Span, StageTimeline
from llmload.metrics.totals import RunTotals
from llmload.scenario.loads import ClosedLoop
from llmload.scenario.staged import Stage, Staged
from llmload.units import NS_PER_S
from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario

QUICK = {"ttft_s": 0.02, "prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 4}
REPEAT = "[prompts]\nrepeat = true"
FIGURES = ("window_s", "requests_per_min", "goodput_per_min", "output_tokens_per_s", "ttft_s", "e2e_s")


def reasons(ended: Ended) -> dict[str, str]:
    assert ended.code == 3, ended.err
    assert ended.summary["verdict"]["level"] == "INVALID"
    return {reason["check"]: reason["text"] for reason in ended.summary["verdict"]["reasons"]}


def measured(ended: Ended, *names: str) -> dict[str, Any]:
    return {name: ended.summary[name] for name in names if ended.summary[name] is not None}


def test_a_counted_load_that_ends_in_its_warm_up_has_no_length() -> None:
    span = Span(ClosedLoop(kind="closed_loop", users=1, requests=9, warmup_s=5))
    totals = RunTotals(first_started_s=0.1, last_done_s=0.4)
    span.open()

    assert span.length_s(totals) is None
    assert span.opened_unix_s(totals) is None
    totals.last_done_s = 9.0
    assert span.length_s(totals) == pytest.approx(4, abs=0.1)


def test_the_window_of_a_stage_opens_once_its_ramp_and_warm_up_are_over() -> None:
    stages = [Stage(users=2, duration_s=9), Stage(users=8, duration_s=9)]
    timeline = StageTimeline(Staged(kind="staged", spawn_rate_per_s=1, warmup_s=2, stages=stages), time.monotonic_ns())
    timeline.begin_first()
    timeline.begin(1)
    begun = [timeline.begin_ns(index) or 0 for index in range(2)]

    opens = [timeline.window(index).start_ns or 0 for index in range(2)]
    assert [(at - since) / NS_PER_S for at, since in zip(opens, begun, strict=True)] == [2, 7]


def test_a_counted_run_that_ends_in_its_warm_up(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario
) -> None:
    load = "users = 2\nrequests = 10\nwarmup_s = 5"

    ended = locust.run("--config", str(write_scenario(engine(**QUICK).url, load, REPEAT)))

    assert (
        "before its warm-up of 5 s was over: give --requests 100 or --set load.warmup_s=0"
        in (reasons(ended)["nothing_measured"])
    )
    assert not measured(ended, *FIGURES, "window_started_unix_s")
    assert ended.summary["requests"]["completed"] == 10


def test_a_timed_run_whose_answers_come_in_its_drain(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario
) -> None:
    url = engine(**QUICK | {"ttft_s": 3.0}).url

    ended = locust.run("--config", str(write_scenario(url, "users = 2\nduration_s = 2\nwarmup_s = 0.5", REPEAT)))

    assert "no answer ended in its 1." in reasons(ended)["nothing_measured"]
    assert measured(ended, *FIGURES) == {"window_s": pytest.approx(1.5, abs=0.4)}


def test_a_run_whose_drain_cuts_every_request_asks_for_a_longer_drain(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario
) -> None:
    url = engine(**QUICK | {"ttft_s": 30.0}).url
    scenario = write_scenario(url, "users = 2\nduration_s = 2", REPEAT)

    ended = locust.run("--config", str(scenario), "--set", "run.drain_timeout_s=0.5")

    says = reasons(ended)
    assert says["answers"] == "no request came to an end, so nothing was measured"
    assert "--set run.drain_timeout_s=300" in says["censored_share"]


def test_a_counted_run_that_ends_in_its_ramp(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario
) -> None:
    load = "users = 4\nspawn_rate_per_s = 0.1\nrequests = 8"

    ended = locust.run("--config", str(write_scenario(engine(**QUICK).url, load, REPEAT)))

    says = reasons(ended)["users_reached"]
    assert says.startswith("not all users ran: the load ended after ")
    assert says.endswith("before the ramp of 30 s (users = 4, spawn_rate_per_s = 0.1) was over: give --requests 80")


def test_a_stage_without_an_answer(locust: Locust, engine: StartEngine, write_scenario: WriteScenario) -> None:
    file = write_scenario(
        engine(**QUICK).url,
        'warmup_s = 0.5\nstages = [{rate_per_s = 20, duration_s = 2.025}, {name = "quiet", rate_per_s = 0.01, '
        "duration_s = 2}]",
        REPEAT,
    )
    text = file.read_text().replace('kind = "closed_loop"', 'kind = "staged"\narrivals = "constant"')
    file.write_text(text.replace("chat.py", "chat_staged.py"))

    ended = locust.run("--config", str(file))

    assert "nothing was measured in quiet: no answer ended in its " in reasons(ended)["nothing_measured"]
    stages = {stage["name"]: stage["requests_per_min"] for stage in ended.summary["stages"]}
    assert stages["stage-1"] == pytest.approx(1200, rel=0.2)
    assert stages["quiet"] is None


def test_more_users_start_at_once_unless_their_rate_is_set(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario
) -> None:
    file = str(write_scenario(engine(**QUICK, slots=64).url, "users = 2\nduration_s = 3\nwarmup_s = 1", REPEAT))

    quick = locust.run("--config", file, "--users", "40")
    slow = locust.run("--config", file, "--users", "40", "--spawn-rate", "2")

    assert quick.summary["window_s"] == pytest.approx(2, abs=0.5)
    assert quick.manifest["scenario"]["load"]["users"] == 40
    assert quick.manifest["scenario"]["load"].get("spawn_rate_per_s") is None
    assert slow.code == 2
    assert (
        "the ramp of 19 s (users = 40, spawn_rate_per_s = 2) and warmup_s = 1 leave nothing of duration_s" in slow.err
    )


def test_an_option_mends_a_file_that_has_no_window(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario
) -> None:
    file = str(write_scenario(engine(**QUICK).url, "users = 2\nduration_s = 1\nwarmup_s = 1", REPEAT))

    ended = locust.run("--config", file, "--run-time", "3s")

    assert ended.summary["window_s"] == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(("duration_s", "doubted"), [(2, True), (7, False)], ids=["two answers", "about seven"])
def test_a_window_that_holds_less_than_three_answers_a_user_doubts_its_rates(
    locust: Locust, engine: StartEngine, write_scenario: WriteScenario, duration_s: int, doubted: bool
) -> None:
    url = engine(**QUICK | {"ttft_s": 0.9}).url

    ended = locust.run("--config", str(write_scenario(url, f"users = 1\nduration_s = {duration_s}", REPEAT)))

    assert ended.code == 0, ended.err
    checks = {reason["check"] for reason in ended.summary["verdict"]["reasons"]}
    assert ("window_edges" in checks) == doubted, ended.summary["verdict"]
    marked = {doubt["figure"] for doubt in ended.summary["verdict"]["doubts"] if doubt["check"] == "window_edges"}
    assert marked == ({"requests_per_min", "goodput_per_min", "output_tokens_per_s"} if doubted else set())
