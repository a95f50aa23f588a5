"""Requests leave when they are due, stages are judged one by one, and what cannot be sent is counted."""

import json
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from llmload.prompts.trace import trace_of_worker
from llmload.prompts.workload import unit_gaps
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

QUICK = {"ttft_s": 0.02, "prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 4}
"""How often a run is measured again where a busy machine delayed it; its counts have to agree each time."""
REPEAT = "[prompts]\nrepeat = true"


def open_loop(write: WriteScenario, url: str, load: str) -> str:
    file = write(url, load, REPEAT)
    file.write_text(file.read_text().replace('kind = "closed_loop"\n', ""))
    return str(file)


def arrivals(log: Path) -> list[float]:
    return sorted(json.loads(line)["received_ns"] / 1e9 for line in log.read_text().splitlines())


def gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(times)]


@pytest.mark.parametrize(
    ("kind", "cv", "expected"), [("constant", 1.0, 0.0), ("poisson", 1.0, 1.0), ("gamma", 2.0, 2.0)]
)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_workers_parts_add_up_to_the_whole_process(kind: Any, cv: float, expected: float, workers: int) -> None:
    times: list[float] = []
    for worker in range(workers):
        at = 0.0
        for gap in unit_gaps(kind, cv=cv, seed=3, worker_index=worker, worker_count=workers):
            at += gap
            if at > 20_000:
                break
            times.append(at)
    times.sort()

    between = gaps(times)
    assert len(times) == pytest.approx(20_000, rel=0.05)
    assert stdev(between) / mean(between) == pytest.approx(expected, abs=0.06 * max(1, expected))


def test_the_same_seed_gives_the_same_arrivals() -> None:
    def first(seed: int, worker: int) -> list[float]:
        process = unit_gaps("poisson", cv=1.0, seed=seed, worker_index=worker, worker_count=2)
        return [next(process) for _ in range(5)]

    assert first(1, 0) == first(1, 0)
    assert first(1, 0) != first(2, 0)
    assert first(1, 0) != first(1, 1)


def test_a_trace_is_split_without_overlap() -> None:
    times = (0.0, 1.0, 2.0, 3.0, 4.0)
    phases = [list(trace_of_worker(times, worker_index=i, worker_count=2)) for i in range(2)]

    assert sorted(phases[0] + phases[1]) == list(enumerate(times))


@pytest.mark.timing
def test_an_open_loop_sends_at_its_rate_whatever_is_in_flight(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    """In one process; `test_slow_worker.py` holds the rate of two workers, one of them late."""
    log = tmp_path / "truth.jsonl"
    url = engine(**QUICK | {"ttft_s": 1.0}, slots=500, log=log).url
    load = 'kind = "open_loop"\nrate_per_s = 50\narrivals = "constant"\nduration_s = 6'

    ended = locust.run("--config", open_loop(write_scenario, url, load))
    seen = arrivals(log)
    all_send = [time for time in seen if seen[0] + 2 < time < seen[0] + 5]
    rate_per_s = (len(all_send) - 1) / (all_send[-1] - all_send[0])
    requests = ended.summary["requests"]

    assert requests["started"] == requests["completed"] == len(seen) == len(ended.lines)
    assert ended.code == 0, ended.err
    assert rate_per_s == pytest.approx(50, rel=0.02)
    assert ended.summary["schedule_lag_s"]["p99"] < 0.1
    assert all(line["scheduled_ns"] <= line["started_ns"] for line in ended.lines)
    assert ended.summary["e2e_from_schedule_s"]["mean"] >= ended.summary["e2e_s"]["mean"]


@pytest.mark.timing
def test_arrivals_beyond_the_cap_are_dropped_and_counted(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**QUICK | {"ttft_s": 2.0}).url
    load = 'kind = "open_loop"\nrate_per_s = 50\narrivals = "constant"\nduration_s = 3\nmax_in_flight = 10'

    ended = locust.run("--config", open_loop(write_scenario, url, load))
    requests = ended.summary["requests"]

    assert ended.code == 3, ended.err
    assert requests["started"] <= 20
    assert requests["started"] + requests["dropped"] == pytest.approx(150, abs=40)
    assert "dropped_share" in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}


@pytest.mark.timing
def test_a_trace_is_replayed_at_its_times(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    """`tests/prompts/test_trace.py` reads every form of a trace."""
    log = tmp_path / "truth.jsonl"
    (tmp_path / "trace.csv").write_text(
        "when,tokens\n2026-01-01T00:00:00,1\n2026-01-01T00:00:00.5,1\n2026-01-01T00:00:02,1\n"
    )
    load = 'kind = "replay"\ntrace = "trace.csv"\ncolumn = "when"\nspeed = 2'

    ended = locust.run("--config", open_loop(write_scenario, engine(**QUICK, log=log).url, load))
    seen = arrivals(log)

    assert len(seen) == 3, ended.err
    assert gaps(seen) == pytest.approx([0.25, 0.75], abs=0.05)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("when\nyesterday\n", "trace.csv, line 2: 'yesterday' is neither a number nor an ISO date and time"),
        ("then\n1\n", "trace.csv, line 2: has no 'when' but then"),
        ("when\n", "has no arrivals"),
    ],
)
def test_a_trace_that_is_not_one_is_refused(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "trace.csv").write_text(text)
    load = 'kind = "replay"\ntrace = "trace.csv"\ncolumn = "when"'

    ended = locust.run("--config", open_loop(write_scenario, engine().url, load))

    assert ended.code == 2
    assert says in ended.err


@pytest.mark.timing
def test_each_stage_is_judged_by_itself(engine: StartEngine, locust: Locust, write_scenario: WriteScenario) -> None:
    """On two workers; `test_runs.py` runs the shipped stages in one process."""
    url = engine(**QUICK | {"ttft_s": 0.185}, slots=64).url
    load = 'kind = "staged"\nwarmup_s = 1\nstages = [{users = 2, duration_s = 4}, {users = 6, duration_s = 4}]'
    file = Path(open_loop(write_scenario, url, load))
    file.write_text(file.read_text().replace("chat.py", "chat_staged.py"))

    expected = [pytest.approx(users / 0.2 * 60, rel=0.15) for users in (2, 6)]
    ended = locust.run("--config", str(file), "--processes", "2")
    stages, requests = ended.summary["stages"], ended.summary["requests"]
    measured = [stage["requests_per_min"] for stage in stages]

    assert [(stage["name"], stage["users"]) for stage in stages] == [("stage-1", 2), ("stage-2", 6)]
    assert requests["started"] == requests["completed"] == len(ended.lines)
    assert ended.code == 0, ended.err
    assert measured == expected
