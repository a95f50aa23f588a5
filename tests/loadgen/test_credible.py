"""Reports that can be true and reports that cannot: an honest worker is never doubted, a lie is named by its figure."""

from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmload.loadgen.collected import Collected
from llmload.loadgen.credible import Limits
from llmload.loadgen.messages import Drained, Totals, last_report
from llmload.metrics.totals import COARSEST, RunTotals
from llmload.record import RequestRecord, Window
from llmload.scenario import load_scenario
from llmload.scenario.loads import ClosedLoop, OpenLoop
from llmload.scenario.reading import find_scenario
from tests import recorded
from tests.metrics.test_totals import SLO, one_by_one, record, windows

LIMITS = Limits(elapsed_s=60.0, phases=frozenset({"stage-1"}), requests=100, in_flight=8)


def report(totals: RunTotals, coarseness: int = 0, **stages: RunTotals) -> Totals:
    of = {name.replace("_", "-"): each.to_message(with_out_of_window=False) for name, each in stages.items()}
    return Totals.pack(
        "run", totals.to_message(coarseness=coarseness), of, {"name": of["stage-1"]} if "stage-1" in of else {}
    )


@given(st.lists(record(), max_size=8), windows, st.integers(0, 8), st.integers(0, COARSEST))
@settings(max_examples=40)
def test_a_worker_that_counts_is_never_doubted(
    of: list[RequestRecord], window: Window, after: int, coarseness: int
) -> None:
    collected = Collected("run")
    parts: Sequence[Sequence[RequestRecord]] = (of[:after], of, of)
    for each, how in zip(parts, (coarseness, 0, COARSEST), strict=True):
        totals = one_by_one(each, window)
        stage = one_by_one(each[:3], window)
        totals.started += 1  # one is in flight
        assert collected.take("w", report(totals, how, stage_1=stage), LIMITS) is None
    last = last_report(SimpleNamespace(run_id="run", totals=one_by_one(of, window), stages={}, names={}))
    assert collected.take("w", last, LIMITS) is not None  # one that was in flight is gone
    assert collected.merged().started == len(of) + 1


def honest(requests: int = 20) -> RunTotals:
    of, totals = recorded.records(requests), RunTotals()
    began_ns = min(each.started_ns for each in of)
    for each in of:
        totals.started += 1
        totals.add(each, window=Window(start_ns=began_ns), slo=SLO, run_start_ns=began_ns)
    return totals


def grown(**figures: Any) -> Callable[[RunTotals], None]:
    def lie(totals: RunTotals) -> None:
        for name, value in figures.items():
            setattr(totals, name, getattr(totals, name) + value)

    return lie


def fast_forward(totals: RunTotals) -> None:
    totals.last_done_s = 1e6


def latencies(totals: RunTotals) -> None:
    """A thousand answers more, with all that belongs to them: too many for so few users and so little time."""
    for _ in range(70):
        totals.started += 1
        totals.completed += 1
        totals.distributions["e2e_s"].add(30.0)
        for tally in (totals.finish_reasons, totals.token_sources, totals.stamp_sources):
            tally["kernel"] += 1


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (grown(started=1000), "started is 1020, and can be 100 at most"),
        (grown(started=50), "in flight is 50, and can be 8 at most"),
        (grown(started=-1), "requests ended, and"),
        (grown(started=1, completed=1), "e2e_s has"),
        (grown(started=70, completed=70), "e2e_s has"),
        (grown(completed=1000), "requests ended, and"),
        (grown(failed=1000), "requests ended, and"),
        (grown(good=1000), "good is"),
        (grown(completed_in_window=1000), "completed_in_window is"),
        (grown(failed_in_window=30), "failed_in_window is"),
        (grown(errors=Counter({"reset": 99})), "errors is"),
        (grown(lost_lines=Counter({"no room": 99})), "lost_lines is 99, more than ended"),
        (grown(finish_reasons=Counter({"stop": 1})), "finish_reasons has"),
        (grown(busy_s=1e6), "busy_s is 1.00001e+06, and can be 480 at most"),
        (fast_forward, "last_done_s is 1e+06, and can be 60 at most"),
        (latencies, "e2e_s in all is"),
    ],
)
def test_a_lie_is_named_by_its_figure(lie: Callable[[RunTotals], None], says: str) -> None:
    collected = Collected("run")
    assert collected.take("w", report(honest()), LIMITS) is None
    believed = collected.merged().to_message()
    lying = honest()
    lie(lying)

    doubt = collected.take("w", report(lying), LIMITS)

    assert doubt is not None
    assert says in doubt
    assert collected.merged().to_message() == believed


def test_what_was_counted_once_cannot_be_fewer_later() -> None:
    collected = Collected("run")
    collected.take("w", report(honest()), LIMITS)

    doubt = collected.take("w", report(honest(19)), LIMITS)

    assert doubt == "started was 20, and is 19"


def test_a_stage_is_one_of_the_loads_and_a_part_of_the_run() -> None:
    collected, whole = Collected("run"), honest()

    unknown = collected.take("w", report(whole, other=honest()), LIMITS)
    more = collected.take("w", report(one_by_one([], Window(start_ns=None)), stage_1=honest()), LIMITS)

    assert unknown == "body: the load has no stage 'other'"
    assert more is not None
    assert more.startswith("stage-1: completed is ")


@pytest.mark.parametrize(
    ("load", "phases", "most"),
    [
        ({"kind": "closed_loop", "users": 5, "requests": 9}, None, 5),
        ({"kind": "closed_loop", "users": 5, "requests": 9}, [5, 2, 5], 12),
        ({"kind": "open_loop", "rate_per_s": 5.0, "duration_s": 9.0, "max_in_flight": 7}, None, 7),
        ({"kind": "open_loop", "rate_per_s": 5.0, "duration_s": 9.0, "max_in_flight": 7}, [None], 7),
    ],
)
def test_users_that_an_edit_stops_are_still_in_flight(
    load: dict[str, Any], phases: list[int | None] | None, most: int
) -> None:
    scenario = load_scenario(find_scenario("demo"))
    kind = {"closed_loop": ClosedLoop, "open_loop": OpenLoop}[load["kind"]]
    timeline = phases and SimpleNamespace(phases=[SimpleNamespace(name="p", users=users) for users in phases])
    coordinator: Any = SimpleNamespace(
        users_vary=False,
        scenario=scenario.model_copy(update={"load": kind(**load)}),
        driver=None,
        timeline=timeline,
        elapsed_s=1.0,
    )

    limits = Limits.of(coordinator, None)

    assert limits.in_flight == most
    assert limits.phases == ({"p"} if phases else set())


def test_a_last_report_that_cannot_be_true_is_not_the_last() -> None:
    collected, lying = Collected("run"), honest()
    lying.good += 1000

    doubt = collected.take("w", Drained.pack("run", lying.to_message(), {}), LIMITS)

    assert doubt is not None
    assert not collected.final
