"""How far the figures of a run can be trusted: the verdict, what speaks against it, and which figures are in doubt."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from llmload.metrics.totals import RunTotals

_CONTRACT: Final = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


ALL: Final = ("all",)
"""The figures of a reason that spoils the whole run."""


class Level(StrEnum):
    """How far the figures can be trusted."""

    VALID = "VALID"
    DEGRADED = "DEGRADED"  # read the reasons before using the figures
    INVALID = "INVALID"  # do not use the figures


def check_in_words(name: str) -> str:
    """Return what texts call a check: `event loop lag p99` of `event_loop_lag_p99_s`."""
    return name.removesuffix("_s").replace("_", " ")


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
    figures: tuple[str, ...] = ALL
    """The figures that it spoils, such as `itl_s p99` or `ttft_s` for all its statistics; `all` for the whole run."""


class Doubt(BaseModel):
    """A figure that may be off, and why: tables and report mark it."""

    model_config = _CONTRACT

    figure: str
    """The figure's key."""
    statistic: str | None
    """Its statistic, such as `p99`; `null` for all of them, and for a figure that has none."""
    check: str
    """The check that doubts it."""
    text: str
    """Why, in words."""
    low: float | None = None
    """The true figure is at least this; `null` where that is not known."""
    high: float | None = None
    """The true figure is at most this; `null` where that is not known."""

    @property
    def name(self) -> str:
        """Figure and statistic, as `Reason.figures` has them."""
        return f"{self.figure} {self.statistic}" if self.statistic else self.figure

    def is_of(self, figure: str, statistic: str | None = None) -> bool:
        """Return whether it doubts that statistic of the figure; `statistic` is None for a figure that has none."""
        return self.figure == figure and (self.statistic is None or self.statistic == statistic)


class Verdict(BaseModel):
    """How far the run can be trusted, the reasons against it, and the figures that may be off."""

    model_config = _CONTRACT

    level: Level
    """`VALID`, `DEGRADED` (read the reasons), or `INVALID` (do not use the figures)."""
    reasons: tuple[Reason, ...]
    """The checks that did not pass, the one that explains the most first."""
    doubts: tuple[Doubt, ...] = ()
    """The figures that may be off, whether or not that lowers the level."""

    @classmethod
    def of(cls, reasons: Iterable[Reason] = (), doubts: Iterable[Doubt] = ()) -> Self:
        """Return the verdict with the worst reason's level; VALID without reasons."""
        ordered = tuple(sorted(reasons, key=_weight))
        return cls(level=ordered[0].level if ordered else Level.VALID, reasons=ordered, doubts=tuple(doubts))


_EXPLAIN_MOST: Final = (
    "unfinished",
    "ended_early",
    "internal_error",
    "lost_records",
    "missing_lines",
    "rejected_workers",
    "missing_workers",
    "error_share",
    "late_workers",
)
"""Checks whose reasons explain others: a run that was cut has measured less, and so on."""


def _weight(reason: Reason) -> tuple[bool, int]:
    """Return what reasons are sorted by: INVALID first, then those that explain others; the rest keep their order."""
    known = reason.check in _EXPLAIN_MOST
    return reason.level is not Level.INVALID, _EXPLAIN_MOST.index(reason.check) if known else len(_EXPLAIN_MOST)


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
        most = "".join(f": {each}" for each in totals.failures.most_common(1))
        why, remedy = f"all {totals.failed_in_window} requests that ended in its {window_s:.3g} s failed{most}", ""
    elif not ended:
        why = f"no answer ended in its {window_s:.3g} s"
    else:
        why = f"no request that began in its {window_s:.3g} s was answered, so no latency is known"
    text = f"nothing was measured in {where}: {why}{remedy and f': give {remedy}'}"
    return Reason(check=NOTHING_MEASURED, level=Level.INVALID, text=text)
