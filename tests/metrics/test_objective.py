"""An objective names a figure and a limit, and a faulty one is refused with a clear error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.metrics.objective import OBJECTIVE_METRICS as METRICS
from llmload.metrics.objective import RATES, SHARES, STATISTICS, Objective
from llmload.metrics.requests import REQUEST_DISTRIBUTIONS as DISTRIBUTIONS
from llmload.metrics.totals import RunTotals
from llmload.runs.build_summary import figures
from llmload.runs.summary import Figures
from tests.run_files import summary_of

SUMMARY = summary_of(
    ttft_s={"mean": 0.2, "p50": 0.15, "p90": 0.3, "p95": 0.4, "p99": 0.6, "max": 0.7, "count": 100},
    error_share=0.02,
    requests_per_min=30.0,
)


@st.composite
def objectives(draw: st.DrawFn) -> Objective:
    metric = draw(st.sampled_from(METRICS))
    statistic = draw(st.sampled_from(STATISTICS)) if metric in DISTRIBUTIONS else None
    most = 0.999 if metric in SHARES else 1e9
    limit = draw(st.floats(min_value=1e-9, max_value=most))
    return Objective(metric, statistic, draw(st.sampled_from(["<", "<=", ">", ">="])), limit)


@given(objectives())
def test_an_objective_as_text_is_parsed_to_the_same_objective(objective: Objective) -> None:
    assert Objective.parse(str(objective)) == objective


@given(objectives(), st.text(alphabet=" \t", max_size=3))
def test_space_around_an_objective_and_its_comparison_means_nothing(objective: Objective, space: str) -> None:
    text = f"{space}{objective.name}{space}{objective.comparison}{space}{objective.limit!r}{space}"

    assert Objective.parse(text) == objective


@given(objectives(), st.floats(min_value=0, max_value=1e9))
def test_a_figure_passes_an_objective_or_its_opposite_never_both(objective: Objective, value: float) -> None:
    opposite = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}[objective.comparison]
    other = Objective(objective.metric, objective.statistic, opposite, objective.limit)

    assert objective.passed(value) != other.passed(value)


@given(objectives(), st.floats(min_value=0, max_value=1e9))
def test_the_text_of_a_figure_is_on_the_same_side_of_the_limit_as_the_figure(
    objective: Objective, value: float
) -> None:
    text = objective.describe(value).removeprefix(f"{objective.name} ").split(",")[0]

    assert objective.passed(float(text)) == objective.passed(value)


@given(st.text(max_size=40))
def test_any_other_text_is_refused_with_a_sentence(text: str) -> None:
    try:
        objective = Objective.parse(text)
    except ValueError as error:
        assert len(str(error)) > 20  # noqa: PT017 - either outcome is right, and each has its own claim
    else:
        assert objective.metric in METRICS


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ttft_s", "an objective looks like 'ttft_s p95 < 0.5'"),
        ("ttft_s p95 = 0.5", "an objective looks like"),
        ("ttft p95 < 0.5", "no figure is called ttft; did you mean ttft_s? known: ttft_s, tpot_s"),
        ("zebra < 1", "no figure is called zebra; known: ttft_s"),
        ("ttft_s < 0.5", "ttft_s is a distribution and needs a statistic; known: mean, p50, p90, p95, p99, max"),
        ("ttft_s p97 < 0.5", "ttft_s is a distribution and has no p97; known: mean"),
        ("error_share p95 < 0.5", "error_share is one number and has no p95"),
        ("ttft_s p95 < 0,5", "the limit 0,5 is not a number"),
        ("ttft_s p95 < inf", "the limit inf is not a finite number"),
        ("goodput_share >= 95", "goodput_share lies between 0 and 1"),
        ("ttft_s p95 < -1", "ttft_s is never negative"),
        ("ttft_s p95 < 0", "ttft_s < 0 can never be met"),
        ("goodput_share > 1", "goodput_share > 1 can never be met"),
    ],
)
def test_a_line_that_states_no_objective_is_refused_naming_what_is_known(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("?", r"\?")):
        Objective.parse(text)


@pytest.mark.parametrize(
    ("text", "figure", "passed", "described"),
    [
        ("ttft_s p95 < 0.5", 0.4, True, "ttft_s p95 0.4, required < 0.5"),
        ("ttft_s p95 < 0.4", 0.4, False, "ttft_s p95 0.4, required < 0.4"),
        ("ttft_s p95<=0.4", 0.4, True, "ttft_s p95 0.4, required <= 0.4"),
        ("ttft_s max < 0.5", 0.7, False, "ttft_s max 0.7, required < 0.5"),
        ("tpot_s p99 < 10", None, False, "tpot_s p99 not measured, required < 10"),
        ("e2e_s mean < 10", None, False, "e2e_s mean not measured, required < 10"),
        ("error_share <= 0.01", 0.02, False, "error_share 0.02, required <= 0.01"),
        ("goodput_share >= 0.95", None, False, "goodput_share not measured, required >= 0.95"),
        ("requests_per_min >= 30", 30.0, True, "requests_per_min 30, required >= 30"),
    ],
)
def test_a_figure_is_read_from_a_summary_and_judged(
    text: str, figure: float | None, passed: bool, described: str
) -> None:
    objective = Objective.parse(text)

    assert objective.figure(SUMMARY) == figure
    assert objective.passed(figure) is passed
    assert objective.describe(figure) == described


def test_a_summary_has_every_figure_that_an_objective_can_name() -> None:
    totals = RunTotals(completed=19, completed_in_window=19, good_in_window=17, failed=1, failed_in_window=1)
    for name in DISTRIBUTIONS:
        totals.distributions[name].add(2.0)
    summary = figures(totals, 60.0)

    assert set(DISTRIBUTIONS) < set(Figures.model_fields)
    for name in DISTRIBUTIONS:
        assert [Objective.parse(f"{name} {which} < 3").figure(summary) for which in STATISTICS] == [2.0] * 6
    assert [Objective.parse(f"{name} >= 0").figure(summary) for name in (*SHARES, *RATES)] == [
        1 / 20,
        17 / 20,
        19,
        17,
        0,
    ]


def test_shares_of_nothing_are_not_measured() -> None:
    measured = figures(RunTotals(), 10.0)

    assert [Objective.parse(f"{name} <= 0.5").figure(measured) for name in SHARES] == [None, None]
