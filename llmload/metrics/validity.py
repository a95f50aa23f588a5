"""Can the figures of a run be trusted? The checks, each with its limits and reason, and the verdict they give."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from llmload.metrics.totals import RunTotals

_CONTRACT: Final = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Level(StrEnum):
    """How far the figures can be trusted."""

    VALID = "VALID"
    DEGRADED = "DEGRADED"  # read the reasons before using the figures
    INVALID = "INVALID"  # do not use the figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A figure of the run's health, and the limits beyond which the measurement is DEGRADED or INVALID."""

    name: str
    unit: str
    degraded_above: float | None
    invalid_above: float | None
    why: str


CHECKS: Final = (
    Check(
        name="error_share",
        unit="of requests",
        degraded_above=0.0,
        invalid_above=None,
        why="failed requests have no latency, and a failing engine answers the others faster",
    ),
    Check(
        name="censored_share",
        unit="of requests",
        degraded_above=0.0,
        invalid_above=0.1,
        why="requests cut at the end are the slow ones, so the others look faster",
    ),
    Check(
        name="coalesced_share",
        unit="of chunks",
        degraded_above=0.005,
        invalid_above=0.5,
        why="chunks that were read together have one time stamp, so their gaps are not the engine's",
    ),
    Check(
        name="user_stamp_share",
        unit="of answers",
        degraded_above=0.0,
        invalid_above=None,
        why="stamps taken by the process include its own delay",
    ),
    Check(
        name="event_loop_lag_p99_s",
        unit="s",
        degraded_above=0.050,
        invalid_above=1.0,
        why="a client this late sends late: concurrency and arrival rate are not the scenario's",
    ),
    Check(
        name="schedule_lag_p99_s",
        unit="s",
        degraded_above=0.010,
        invalid_above=0.250,
        why="requests were sent later than they were due, so the arrivals are not the scenario's",
    ),
    Check(
        name="dropped_share",
        unit="of arrivals",
        degraded_above=0.0,
        invalid_above=0.05,
        why="arrivals beyond max_in_flight were not sent, so the load was lighter than the scenario's",
    ),
    Check(
        name="concurrency_shortfall",
        unit="of users",
        degraded_above=0.05,
        invalid_above=0.25,
        why="fewer requests were in flight than there are users, so the load was lighter than the scenario's",
    ),
    Check(
        name="worker_cpu_share",
        unit="of a core",
        degraded_above=0.90,
        invalid_above=None,
        why="a load generator near a whole core sends and counts late: use more processes",
    ),
    Check(
        name="contradicted_share",
        unit="of answers",
        degraded_above=0.01,
        invalid_above=None,
        why="the engine counted fewer tokens than it sent chunks with text, so its count is wrong",
    ),
    Check(
        name="cached_token_share",
        unit="of prompt tokens",
        degraded_above=0.05,
        invalid_above=None,
        why="prompts answered from the prefix cache cost the engine less than new ones",
    ),
    Check(
        name="uncounted_share",
        unit="of answers",
        degraded_above=0.0,
        invalid_above=0.5,
        why="answers without a token count are missing from tokens/s",
    ),
    Check(
        name="chunk_counted_share",
        unit="of answers",
        degraded_above=0.0,
        invalid_above=None,
        why="chunks were counted as tokens, and an engine may put several tokens in a chunk or none",
    ),
    Check(
        name="reused_prompt_share",
        unit="of requests",
        degraded_above=0.0,
        invalid_above=None,
        why="a prompt sent before may be answered from the engine's prefix cache",
    ),
    Check(
        name="missing_workers",
        unit="workers",
        degraded_above=None,
        invalid_above=0.0,
        why="requests in flight on a lost worker are missing, and its part of the load was not sent",
    ),
    Check(
        name="late_workers",
        unit="workers",
        degraded_above=0.0,
        invalid_above=None,
        why="a worker that connected after the start takes no part, so fewer processes sent than there are",
    ),
    Check(
        name="other_version_workers",
        unit="workers",
        degraded_above=0.0,
        invalid_above=None,
        why="another version of llmload may count differently",
    ),
)


class Reason(BaseModel):
    """A check that did not pass."""

    model_config = _CONTRACT

    check: str
    """The check's name."""
    level: Level
    """`DEGRADED` or `INVALID`."""
    figure: float | None = None
    """The check's figure; `null` if the check has none."""
    limit: float | None = None
    """The limit that the figure exceeded."""
    text: str
    """The same in words, with the reason for the limit."""


class Verdict(BaseModel):
    """How far the run can be trusted, and the reasons against it."""

    model_config = _CONTRACT

    level: Level
    """`VALID`, `DEGRADED` (read the reasons), or `INVALID` (do not use the figures)."""
    reasons: tuple[Reason, ...]
    """The checks that did not pass."""

    @classmethod
    def of(cls, reasons: Iterable[Reason] = ()) -> Self:
        """Return the verdict with the worst reason's level; VALID without reasons."""
        reasons = tuple(reasons)
        levels = {reason.level for reason in reasons}
        worst = next((level for level in (Level.INVALID, Level.DEGRADED) if level in levels), Level.VALID)
        return cls(level=worst, reasons=reasons)


NOTHING_MEASURED: Final = "nothing_measured"
"""The check whose reason says that a window, or the answers in it, are missing."""


def nothing_measured(
    totals: RunTotals, window_s: float | None, *, unopened: str, remedy: str, where: str, by_start: bool = False
) -> Reason | None:
    """
    Return the reason why nothing was measured in a window; None where something was.

    `unopened` says why a window without a length has none, `where` names the window, `remedy` is the options to give.
    Requests must have ended in the window with an answer, and begun in it and been answered; `by_start`: one of both.
    """
    ended, begun = totals.completed_in_window, totals.distributions["e2e_s"].count
    if window_s is None:
        why = unopened
    elif (ended and begun) or (by_start and (ended or begun)):
        return None
    elif totals.failed_in_window and not ended:
        most = f" ({totals.errors.most_common(1)[0][0]})" if totals.errors else ""
        why, remedy = f"all {totals.failed_in_window} requests that ended in its {window_s:.3g} s failed{most}", ""
    elif not ended:
        why = f"no answer ended in its {window_s:.3g} s"
    else:
        why = f"no request that began in its {window_s:.3g} s was answered, so no latency is known"
    text = f"nothing was measured in {where}: {why}{remedy and f': give {remedy}'}"
    return Reason(check=NOTHING_MEASURED, level=Level.INVALID, text=text)


def judge(figures: dict[str, float | None], further: Iterable[Reason] = ()) -> Verdict:
    """
    Compare each figure with the limits of its check; a figure that is None is unknown and gives no reason.

    KeyError for a figure without a check of its name.
    """
    checks = {check.name: check for check in CHECKS}
    reasons = []
    for name, figure in figures.items():
        check = checks[name]
        if figure is None:
            continue
        for level, limit in ((Level.INVALID, check.invalid_above), (Level.DEGRADED, check.degraded_above)):
            if limit is not None and figure > limit:
                text = f"{name} {figure:.4g} {check.unit}, limit {limit:g}: {check.why}"
                reasons.append(Reason(check=name, level=level, figure=figure, limit=limit, text=text))
                break
    return Verdict.of((*further, *reasons))


def health(totals: RunTotals) -> dict[str, float | None]:
    """Return the figures of the checks that need only totals; None is unknown."""
    answers = sum(totals.token_sources.values())
    return {
        "error_share": _share(totals.failed, totals.ended),
        "censored_share": _share(totals.censored, totals.ended),
        "coalesced_share": _share(totals.coalesced_chunks, totals.chunks),
        "user_stamp_share": _share(totals.stamp_sources["user"], answers),
        "event_loop_lag_p99_s": totals.distributions["event_loop_lag_s"].quantile(0.99),
        "schedule_lag_p99_s": totals.distributions["schedule_lag_s"].quantile(0.99),
        "dropped_share": _share(totals.dropped, totals.dropped + totals.started),
        "uncounted_share": _share(totals.uncounted_answers, answers),
        "chunk_counted_share": _share(totals.token_sources["chunks"], answers),
        "contradicted_share": _share(totals.contradicted_answers, answers),
        "reused_prompt_share": _share(totals.reused_prompts, totals.started),
        "cached_token_share": totals.cached_token_share,
    }


def _share(part: float, of: int) -> float | None:
    return part / of if of else None
