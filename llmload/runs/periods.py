"""When a run's window and stages were, on its own time axis, by its manifest."""

from dataclasses import dataclass

from llmload.metrics.totals import RunTotals
from llmload.record import Window
from llmload.runs.manifest import Manifest
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
