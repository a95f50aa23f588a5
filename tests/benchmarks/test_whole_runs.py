"""The trials of whole runs find each difference between accounts, and report none where they agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click import ClickException
from click.testing import CliRunner

from benchmarks.tools.hosts import Network
from benchmarks.tools.truth_engine.log import TrueAnswer
from benchmarks.trials.runs.__main__ import main
from benchmarks.trials.runs.accounts import Accounts
from benchmarks.trials.runs.arrivals import LOCUSTFILE, Gaps, Lag, Reading, by_worker, percentile_error, steady
from benchmarks.trials.runs.requirements import judge_arrivals
from benchmarks.trials.runs.trials import ENDS, draw_trials
from benchmarks.trials.runs.worker_loss import Loss, judge_losses
from llmload.scenario import load_scenario

COUNTED = {"started": 3, "completed": 1, "failed": 1, "censored": 1}


def line(name: str, outcome: str, *, sent: bool = True) -> dict[str, Any]:
    return {"request_id": name, "outcome": outcome, "sent_ns": 1 if sent else None}


def accounts(*, censored_sent: bool = True, log: tuple[str, ...] = ("a", "b", "c"), **counted: int) -> Accounts:
    lines = [line("a", "completed"), line("b", "failed"), line("c", "censored", sent=censored_sent)]
    return Accounts.of(COUNTED | counted, lines, [{"request_id": name} for name in log])


def test_accounts_that_agree_have_no_difference() -> None:
    assert accounts().differences == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"started": 4}, "4 started, 3 ended"),
        ({"completed": 2, "censored": 0}, "2 completed, 1 lines with that outcome"),
        ({"log": ("a", "b")}, "c was sent, and the engine did not see it"),
        ({"log": ("a", "b", "c", "d")}, "d is in no file"),
        ({"log": ("a", "b", "c", "c")}, "c has 2 lines in the engine's log"),
    ],
)
def test_each_difference_is_named(change: dict[str, Any], says: str) -> None:
    assert says in accounts(**change).differences


def test_a_lost_request_and_a_doubled_one_do_not_make_up_for_each_other() -> None:
    assert len(accounts(log=("a", "b", "b")).differences) == 2


def test_a_request_that_never_left_is_counted_apart() -> None:
    unseen = accounts(censored_sent=False, log=("a", "b"))

    assert (unseen.differences, unseen.unsent, unseen.lines) == ((), 1, 3)


def test_a_run_of_nothing_is_a_difference() -> None:
    nothing = Accounts.of(dict.fromkeys(COUNTED, 0), [], [])

    assert nothing.differences == ("nothing was started",)


def test_lines_that_are_said_to_be_lost_are_part_of_the_account() -> None:
    lines, log = [line("a", "completed"), line("b", "failed")], [{"request_id": name} for name in "abc"]

    assert Accounts.of(COUNTED, lines, log, said_lost=1).differences == ()
    assert "3 started, 2 lines and 2 said to be lost" in Accounts.of(COUNTED, lines, log, said_lost=2).differences
    assert "c is in no file" in Accounts.of(COUNTED, lines, log).differences


def test_a_process_that_is_killed_may_leave_no_more_than_it_had_in_flight_without_a_line() -> None:
    lines = [line(name, "completed") for name in "abc"]
    log, counted = [{"request_id": name} for name in "abcde"], COUNTED | {"completed": 3, "failed": 0, "censored": 0}

    assert Accounts.of(counted, lines, log, killed=2).differences == ()
    assert Accounts.of(counted, lines, log, killed=1).differences == ("d is in no file", "e is in no file")


def test_an_engine_that_went_away_need_not_have_seen_what_broke_off() -> None:
    refused = line("a", "failed") | {"error": {"type": "reset"}}
    counted = {"started": 1, "completed": 0, "failed": 1, "censored": 0}

    assert Accounts.of(counted, [refused], []).differences == ()
    slow = refused | {"error": {"type": "total_timeout"}}
    assert "a was sent, and the engine did not see it" in Accounts.of(counted, [slow], []).differences


def test_every_end_is_drawn_and_every_scenario_is_one(tmp_path: Path) -> None:
    trials = list(draw_trials(2 * len(ENDS), seed=5))

    assert {trial.end for trial in trials} == set(ENDS)
    assert trials == list(draw_trials(2 * len(ENDS), seed=5)) != list(draw_trials(2 * len(ENDS), seed=6))
    for trial in trials:
        file = tmp_path / "scenario.toml"
        file.write_text(trial.scenario("http://127.0.0.1:8100"))
        assert load_scenario(file).scenario.seed == trial.seed


def test_gaps_of_a_poisson_process_have_a_cv_of_one() -> None:
    times_s = np.cumsum(np.random.default_rng(1).exponential(0.1, 20_000))

    gaps = Gaps.of(times_s)

    assert gaps.rate_per_s == pytest.approx(10, rel=0.02)
    assert gaps.cv == pytest.approx(1, abs=0.02)
    assert Gaps.of(np.arange(100) / 10).cv == pytest.approx(0, abs=1e-9)


def test_the_steady_part_is_where_all_workers_are_at_work() -> None:
    times = by_worker(
        [(f"run-a1-0-{i}", i * 10**9) for i in range(20)] + [(f"run-a1-1-{i}", i * 10**9) for i in range(3, 15)]
    )

    assert sorted(times) == ["0", "1"]
    assert (steady(times).min(), steady(times).max()) == (5, 12)


def test_percentiles_are_compared_with_every_record() -> None:
    lines = [
        {
            "ttft_s": ms / 1000,
            "tpot_s": 0.01,
            "e2e_s": 1.0,
            "started_ns": 2_000_000,
            "scheduled_ns": 1_000_000,
            "chunk_gaps_ns": [50_000_000, 10_000_000],
        }
        for ms in range(1, 101)
    ]
    flat = {"tpot_s": 0.01, "e2e_s": 1.0, "schedule_lag_s": 0.001, "itl_s": 0.01}
    summary = {name: dict.fromkeys(("p50", "p90", "p95", "p99"), value) for name, value in flat.items()}
    summary["ttft_s"] = {"p50": 0.050, "p90": 0.090, "p95": 0.095, "p99": 0.099 * 1.02}

    assert percentile_error(summary, lines) == pytest.approx(0.02)


MS = 1_000_000
LATE = Lag(p50_s=0.0001, p99_s=0.0006, max_s=0.01)


def true_answer(request_id: str, *, received_ms: float = 0.0) -> TrueAnswer:
    """Build an answer as the engine logs it."""
    return TrueAnswer(
        request_id=request_id,
        complete=True,
        kernel_stamped=True,
        received_ns=round(received_ms * MS),
        first_due_ns=0,
        done_ns=0,
        worst_late_ns=0,
        writes_ns=np.array([], dtype=np.int64),
    )


def reading(**changes: Any) -> Reading:
    gaps = Gaps(count=1000, rate_per_s=102.0, cv=1.01)
    values: dict[str, Any] = {
        "kind": "poisson",
        "target_per_s": 100,
        "seen": gaps,
        "drawn": gaps,
        "lag": Lag(p50_s=0.0001, p99_s=0.0004, max_s=0.01),
        "percentile_error": 0.0025,
        "report_bytes": 4000,
        "own_report_bytes": 3900,
        "master_cpu_share": 0.01,
        "worker_cpu_share": 0.2,
        "others_cpu_share": 0.1,
        "level": "VALID",
    }
    return Reading(**values | changes)


def test_a_poisson_rate_may_vary_by_chance_and_a_constant_one_may_not() -> None:
    assert all(each.passed for each in judge_arrivals(reading()))
    failed = [each.name for each in judge_arrivals(reading(kind="constant")) if not each.passed]
    assert failed == ["rate off by"]


@pytest.mark.parametrize(
    "change",
    [
        {"seen": Gaps(count=1000, rate_per_s=102.0, cv=1.06)},
        {"lag": LATE},
        {"lag": LATE, "target_per_s": 1000},
        {"report_bytes": 15_001},
        {"master_cpu_share": 0.06},
        {"percentile_error": 0.011},
    ],
)
def test_each_requirement_can_fail(change: dict[str, Any]) -> None:
    assert [each.passed for each in judge_arrivals(reading(**change))].count(False) == 1


def test_the_locustfile_that_arrivals_are_measured_with_exists() -> None:
    assert LOCUSTFILE.is_file()


def test_lag_and_gaps_are_only_stated_beyond_1000_per_s() -> None:
    bursts = Gaps(count=1000, rate_per_s=102.0, cv=2.0)

    assert all(each.passed for each in judge_arrivals(reading(target_per_s=5000, lag=LATE, seen=bursts)))


def test_lag_is_from_when_a_request_was_due_until_it_arrived() -> None:
    lines = [{"request_id": f"r{number}", "scheduled_ns": number * MS} for number in range(100)]
    late_ms = [0.1] * 98 + [2.0, 3.0]
    answers = [true_answer(f"r{number}", received_ms=number + late) for number, late in enumerate(late_ms)]

    lag = Lag.of(lines, answers)

    assert (lag.p50_s, lag.max_s) == pytest.approx((0.0001, 0.003))
    assert 0.002 <= lag.p99_s < 0.003


def test_an_arrival_without_a_record_is_an_error() -> None:
    with pytest.raises(ClickException, match="1 requests that the engine answered have no record: unknown"):
        Lag.of([], [true_answer("unknown")])


def test_a_loss_that_is_noticed_late_fails() -> None:
    loss = Loss(way="w", noticed_s=5.1, level="INVALID", exit_code=3, counted=5, lines=5, lines_elsewhere=0)

    assert [each.passed for each in judge_losses([loss])] == [False, True, True, True]


def test_runs_are_counted_in_one_process() -> None:
    ended = CliRunner().invoke(main, ["count", "--runs", "1", "--seed", "3", "--setting", "local"])

    assert ended.exit_code == 0, ended.output
    assert "1 runs" in ended.output


@pytest.mark.skipif(Network.missing() is not None, reason=f"no network namespaces: {Network.missing()}")
def test_runs_are_counted_on_three_hosts() -> None:
    ended = CliRunner().invoke(main, ["count", "--runs", "1", "--seed", "3", "--setting", "hosts"])

    assert ended.exit_code == 0, ended.output
    assert "1 runs" in ended.output
