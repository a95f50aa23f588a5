"""A worker's report stays small however widely latencies spread, and its last one is whole."""

from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest

from llmload.loadgen.collected import Collected
from llmload.loadgen.credible import Limits
from llmload.loadgen.locust_statistics import restore_report, shrink_report
from llmload.loadgen.messages import REPORT_BYTES, Reports, last_report, wire_bytes
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.requests import DISTRIBUTIONS
from llmload.metrics.totals import COARSEST, MERGE_FACTORS, RunTotals
from llmload.stats.histogram import RATIO

QUANTILES = (0.5, 0.9, 0.95, 0.99)


def totals_of(spread: float, count: int, seed: int = 1) -> RunTotals:
    totals, dice = RunTotals(started=count, completed=count), np.random.default_rng(seed)
    for histogram in totals.distributions.values():
        histogram.add_many(dice.lognormal(-3.0, spread, count))
    return totals


def session(totals: RunTotals, **stages: RunTotals) -> Any:
    return SimpleNamespace(run_id="run", totals=totals, stages=stages, names={})


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0, 2.0])
def test_a_report_has_room_for_any_spread_with_a_warm_up_and_stages(spread: float) -> None:
    totals, *stages = (totals_of(spread, 100_000, seed) for seed in (1, 2, 4, 5, 6))
    totals.out_of_window = totals_of(spread, 100_000, seed=3).distributions
    reports = Reports(session(totals, **dict(zip("abcd", stages, strict=True))))

    sizes = [wire_bytes(reports.next(12_000)) for _ in range(3)]

    assert max(sizes) <= 12_000, "with room for Locust's part"


def ttft_s(totals: RunTotals, q: float) -> float:
    value_s = totals.distributions["ttft_s"].quantile(q)
    assert value_s is not None
    return value_s


@pytest.mark.parametrize("coarseness", range(COARSEST + 1))
def test_a_coarse_report_keeps_count_sum_and_bounds_and_quantiles_to_its_step(coarseness: int) -> None:
    fine = totals_of(1.0, 20_000)
    again = RunTotals.from_message(fine.to_message(coarseness=coarseness))
    merged = RunTotals()
    merged.merge(again)

    for name in DISTRIBUTIONS:
        was, now = fine.distributions[name], merged.distributions[name]
        assert now.count == was.count
        assert (now.total, now.min_value, now.max_value) == (was.total, was.min_value, was.max_value)
    worst = max(abs(ttft_s(merged, q) / ttft_s(fine, q) - 1) for q in QUANTILES)
    assert worst <= RATIO ** (MERGE_FACTORS[coarseness][0] // 2) - 1 + 1e-9


def test_a_small_report_is_as_fine_as_the_last_one() -> None:
    of = session(totals_of(0.1, 1000))

    assert Reports(of).next(REPORT_BYTES).body == last_report(of).body


def test_one_that_did_not_fit_becomes_fine_again_when_it_does() -> None:
    of = session(totals_of(1.0, 100_000))
    reports = Reports(of)
    tight = reports.next(4_000)
    for _ in range(COARSEST):
        last = reports.next(100_000)

    assert wire_bytes(tight) < 4_000
    assert last.body == last_report(of).body


def test_old_stages_are_sent_in_turn_and_all_of_them_in_the_end() -> None:
    stages = {f"stage-{index}": RunTotals(started=index) for index in range(5)}
    of = session(RunTotals(), **stages)
    reports, collected = Reports(of), Collected("run")
    sent = [list(reports.next(REPORT_BYTES).unpack()[1]) for _ in range(3)]
    for _ in range(3):
        collected.take("w", reports.next(REPORT_BYTES), Limits(elapsed_s=60.0, phases=frozenset(stages)))

    assert all(names[:2] == ["stage-3", "stage-4"] for names in sent)
    assert {names[2] for names in sent} == {"stage-0", "stage-1", "stage-2"}
    assert {name: totals.started for name, totals in collected.merged_stages().items()} == {
        f"stage-{index}": index for index in range(5)
    }
    assert list(last_report(of).unpack()[1]) == list(stages)


def test_names_are_sent_in_turn_where_a_report_has_no_room_and_all_of_them_in_the_end() -> None:
    of = session(totals_of(0.1, 1000))
    of.names = NamedTotals({f"name {index}": totals_of(1.0, 1000, seed=index) for index in range(8)})
    reports = Reports(of)
    sent = [reports.next(REPORT_BYTES) for _ in range(8)]

    assert all(wire_bytes(each) <= REPORT_BYTES for each in sent)
    assert set(of.names) == {name for each in sent for name in each.unpack()[2]}
    assert list(last_report(of).unpack()[2]) == list(of.names)


def test_nothing_after_the_last_report_changes_what_it_said() -> None:
    collected = Collected("run")
    collected.take("w", last_report(session(RunTotals(started=9))), Limits(elapsed_s=60.0))
    collected.take("w", Reports(session(RunTotals(started=3))).fine(), Limits(elapsed_s=60.0))
    other = last_report(SimpleNamespace(run_id="another", totals=RunTotals(started=1), stages={}, names={}))
    collected.take("w", other, Limits(elapsed_s=60.0))

    assert collected.merged().started == 9


def test_locusts_tables_come_back_as_they_were_and_are_small_on_the_way() -> None:
    dice = np.random.default_rng(1)
    times = {float(f"{time:.3g}"): 3 for time in dice.lognormal(4, 1, 1500) if time > 1}
    times = {round(time, 1) if time < 100 else int(time): count for time, count in times.items()}
    data = {"stats": [{"name": "chat", "response_times": dict(times)}], "stats_total": {"response_times": dict(times)}}
    whole = len(msgpack.dumps(data))

    shrink_report(data)
    small = len(msgpack.dumps(data))
    received = msgpack.loads(msgpack.dumps(data), strict_map_key=False)
    restore_report(received)
    restore_report(received)

    assert small < whole / 4
    assert received["stats"][0]["response_times"] == received["stats_total"]["response_times"] == times
    assert {type(time) for time in received["stats_total"]["response_times"] if time >= 100} == {int}


def test_a_report_without_locusts_part_is_left_alone() -> None:
    data: dict[str, Any] = {"llmload": {}}
    shrink_report(data)
    restore_report(data)

    assert data == {"llmload": {}}
