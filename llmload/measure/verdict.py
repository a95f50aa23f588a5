"""Can the figures of a run be trusted? Every limit stands in one table, with its reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Level(StrEnum):
    """How far the figures can be trusted."""

    VALID = "VALID"
    DEGRADED = "DEGRADED"  # read the reasons before using the figures
    INVALID = "INVALID"  # the figures do not say what they seem to say


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A figure of the run's health and the limits beyond which it spoils the measurement."""

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
        why="failed requests carry no latency, and a failing engine answers the others faster",
    ),
    Check(
        name="censored_share",
        unit="of requests",
        degraded_above=0.0,
        invalid_above=0.1,
        why="requests cut at the end are the slow ones, so what is left looks faster",
    ),
    Check(
        name="coalesced_share",
        unit="of chunks",
        degraded_above=0.005,
        invalid_above=0.5,
        why="chunks that were read together carry one time stamp, so their gaps are not the engine's",
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
        why="a client this late sends late: concurrency and arrival rate are not what was asked for",
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
        why="what a lost worker measured after its last report is missing from the sums",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A check that did not pass: its figure and the limit it passed."""

    check: str
    level: Level
    text: str
    figure: float | None = None
    limit: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the reason as plain values."""
        return {
            "check": self.check,
            "level": self.level.value,
            "figure": self.figure,
            "limit": self.limit,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How far the run can be trusted, and why not further."""

    reasons: tuple[Reason, ...] = ()

    @property
    def level(self) -> Level:
        """The worst of the reasons' levels; VALID where there is none."""
        levels = {reason.level for reason in self.reasons}
        return next((level for level in (Level.INVALID, Level.DEGRADED) if level in levels), Level.VALID)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return {"level": self.level.value, "reasons": [reason.to_dict() for reason in self.reasons]}


def judge(figures: dict[str, float | None], further: Iterable[Reason] = ()) -> Verdict:
    """
    Hold each figure against its limits; a figure that is None is not known and passes no judgement.

    KeyError for a figure that no check is named after.
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
    return Verdict(reasons=(*reasons, *further))
