"""When a run's window and stages were, by its manifest; and the summary of a run that left none."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason, health, judge
from llmload.record import Window
from llmload.runs.build_summary import RunOutcome, StageTotals, build_summary
from llmload.runs.manifest import Manifest
from llmload.runs.summary import Summary
from llmload.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage that began, in seconds since the run's start; `window_start_s` is where its warm-up ended."""

    name: str
    start_s: float
    window_start_s: float | None
    end_s: float
    users: int | None = None
    rate_per_s: float | None = None

    @property
    def window(self) -> Window:
        """The part of the stage that is measured."""
        return _window(self.window_start_s, self.end_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The parts of a run on its own time axis, in seconds since its start."""

    window: Window
    estimated: bool
    """Whether the run did not write down where its window was."""
    stages: tuple[Stage, ...]

    def bounded(self, totals: RunTotals) -> Window:
        """Return the window with both ends: a counted run's is from its first request to its last answer."""
        window, first_s, last_s = self.window, totals.first_started_s, totals.last_done_s
        if window.start_s is None or window.end_ns is not None or first_s is None or last_s is None:
            return window
        return _window(max(first_s, window.start_s), last_s)


def read_periods(manifest: Manifest, *, last_s: float, span_s: float) -> Periods:
    """
    Return when window and stages were.

    `last_s` is when the last request ended, `span_s` the length of the whole run, both since the run's start.
    """
    times, duration_s = manifest.timeline, manifest.scenario.load.ends_after_s
    end_s = None if duration_s is None else min(last_s, duration_s)
    closed_s = _since(times.window_end_unix_s, manifest)
    return Periods(
        window=_window(_since(times.window_start_unix_s, manifest), end_s if closed_s is None else closed_s),
        estimated=closed_s is None and end_s is not None,
        stages=_stages_of_manifest(manifest, span_s),
    )


def _window(start_s: float | None, end_s: float | None) -> Window:
    """Return the window between two moments, on the clock of a run's tables."""
    start_ns, end_ns = (None if each is None else round(each * NS_PER_S) for each in (start_s, end_s))
    return Window(start_ns=start_ns, end_ns=end_ns)


def _stages_of_manifest(manifest: Manifest, span_s: float) -> tuple[Stage, ...]:
    times = manifest.timeline.stages
    begun = [(start_s, each) for each in times if (start_s := _since(each.start_unix_s, manifest)) is not None]
    following = [*(start_s for start_s, _ in begun[1:]), span_s]
    return tuple(
        Stage(
            name=each.name,
            start_s=start_s,
            window_start_s=_since(each.window_start_unix_s, manifest),
            end_s=_since(each.end_unix_s, manifest) or next_s,
            users=each.users,
            rate_per_s=each.rate_per_s,
        )
        for (start_s, each), next_s in zip(begun, following, strict=False)
    )


def _since(unix_s: float | None, manifest: Manifest) -> float | None:
    return None if unix_s is None else unix_s - manifest.started_unix_s


SILENT_S: Final = 60.0
"""A run that is still sending writes to its folder more often than this."""
_ONLY_THE_RUN_KNEW: Final = ("dropped_share", "reused_prompt_share", "event_loop_lag_p99_s")


def why_recomputed(started_unix_s: float, files: Sequence[Path]) -> str:
    """Return a sentence: why there is no summary, and where the figures come from instead."""
    silent_s = time.time() - max((file.stat().st_mtime for file in files), default=started_unix_s)
    state = "the run goes on, or ended without a word" if silent_s < SILENT_S else "the run ended without a word"
    return f"{state}: it left no summary.json, so these figures are counted from the requests that it wrote down"


def recomputed_summary(
    manifest: Manifest, totals: RunTotals, periods: Periods, of_stages: Mapping[str, RunTotals], why: str
) -> Summary:
    """Return the summary that the run would have left, with `recomputed`; what only the run itself knew is None."""
    known = {name: value for name, value in health(totals).items() if name not in _ONLY_THE_RUN_KNEW}
    window = periods.bounded(totals)
    opened_s = None if window.length_s is None else window.start_s
    return build_summary(
        RunOutcome(
            run_id=manifest.run_id,
            scenario=manifest.scenario,
            simulated=manifest.simulated,
            totals=totals,
            judged=totals,
            window_s=window.length_s,
            window_started_unix_s=None if opened_s is None else manifest.started_unix_s + opened_s,
            verdict=judge(known, [Reason(check="unfinished", level=Level.INVALID, text=why)]),
            stages=list(_stages(periods, of_stages)),
            recomputed=why,
        )
    )


def _stages(periods: Periods, totals: Mapping[str, RunTotals]) -> Iterator[StageTotals]:
    """Yield the totals of each name of a stage: stages of one name are measured together."""
    of_name: dict[str, list[Stage]] = {}
    for stage in periods.stages:
        of_name.setdefault(stage.name, []).append(stage)
    for name, stages in of_name.items():
        yield StageTotals(
            name=name,
            users=stages[0].users,
            rate_per_s=stages[0].rate_per_s,
            totals=totals[name],
            window_s=sum(stage.window.length_s or 0.0 for stage in stages) or None,
        )
