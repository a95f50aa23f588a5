"""The works: what each is called, how it is run, and what it came to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

from benchmarks.comparisons.client_cost.comparison import Requests, compare
from benchmarks.comparisons.client_cost.requirements import cost_and_truth
from benchmarks.comparisons.client_cost.short_answers import short_answers, short_table
from benchmarks.comparisons.client_cost.special import ALONE
from benchmarks.comparisons.client_cost.starved import judge_starved, starved, starved_table
from benchmarks.comparisons.client_cost.tables import comparison_json, comparison_table
from benchmarks.tools.bench_run import Bench
from benchmarks.tools.load_client import LoadClient
from benchmarks.tools.requirements import Requirement
from benchmarks.tools.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What running a work came to."""

    judgements: Sequence[Requirement] = ()
    tables: Sequence[Table] = ()
    readings: Mapping[str, Any] = field(default_factory=dict)
    """As plain values, by work."""


COSTED: Final = ("200x100x128", "400x100x128")
"""Works with a requirement on what a token costs."""
RunWork = Callable[[Sequence[LoadClient], Requests, Bench], Found]


def plain(work: Work, *, cost: bool) -> RunWork:
    """Return how to run streams of one kind; with `cost`, what a token costs is judged too."""

    def run(clients: Sequence[LoadClient], requests: Requests, bench: Bench) -> Found:
        comparison = compare(clients, work, requests, bench)
        return Found(
            judgements=cost_and_truth(comparison, cost=cost),
            tables=[comparison_table(comparison)],
            readings={work.label: comparison_json(comparison)},
        )

    return run


def _alone(run: Callable[[Bench], Sequence[Requirement]]) -> RunWork:
    """Return a work that llmload does by itself, whatever clients were named."""
    return lambda _clients, _requests, bench: Found(judgements=run(bench))


def _starved(clients: Sequence[LoadClient], requests: Requests, bench: Bench) -> Found:
    found = starved(clients, requests.short, bench)
    return Found(
        judgements=judge_starved(found), tables=[starved_table(found)], readings={"starved": comparison_json(found)}
    )


def _short(clients: Sequence[LoadClient], requests: Requests, bench: Bench) -> Found:
    found = short_answers(clients, requests, bench)
    return Found(
        tables=[short_table(each) for each in found],
        readings={f"short {each.work.tokens}": comparison_json(each) for each in found},
    )


SPECIAL: Final[dict[str, RunWork]] = {
    **{name: _alone(run) for name, run in ALONE.items()},
    "starved": _starved,
    "short": _short,
}
