"""When the judged window and the stages of a run lay, by its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmload.measure.totals import RunTotals
from llmload.report.recount import SpanS


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage that began, in seconds since the run's start; `judged_from_s` is where its warm-up ended."""

    name: str
    from_s: float
    judged_from_s: float | None
    to_s: float
    users: int | None = None
    rate_per_s: float | None = None

    @property
    def window(self) -> SpanS:
        """The part of it that is judged."""
        return SpanS(from_s=self.judged_from_s, to_s=self.to_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The parts of a run on its own time axis, in seconds since its start."""

    window: SpanS
    estimated: bool
    """Whether the run did not write down where its window lay."""
    stages: tuple[Stage, ...]

    def drawn(self, totals: RunTotals) -> SpanS:
        """Return the window with both ends: a counted run's reaches from its first request to its last answer."""
        window, first_s, last_s = self.window, totals.first_started_s, totals.last_done_s
        if window.from_s is None or window.to_s is not None or first_s is None or last_s is None:
            return window
        return SpanS(from_s=max(first_s, window.from_s), to_s=last_s)


def read_periods(
    manifest: Mapping[str, Any], summary: Mapping[str, Any] | None, *, last_s: float, span_s: float
) -> Periods:
    """
    Return when window and stages lay; `summary` is None where the run left none.

    `last_s` is when the last request ended, `span_s` the length of the whole run, both since the run's start.
    """
    load, times = manifest["scenario"]["load"], manifest.get("timeline")
    duration_s = load.get("duration_s") or sum(stage["duration_s"] for stage in load.get("stages") or ()) or None
    end_s = None if duration_s is None else min(last_s, duration_s)
    if times is None:
        return Periods(window=_estimated(load, summary, end_s), estimated=True, stages=())
    from_s, to_s = (_since(times[f"window_{of}_unix_s"], manifest) for of in ("start", "end"))
    return Periods(
        window=SpanS(from_s=from_s, to_s=end_s if to_s is None else to_s),
        estimated=to_s is None and end_s is not None,
        stages=_stages(times["stages"], manifest, span_s),
    )


def _estimated(load: Mapping[str, Any], summary: Mapping[str, Any] | None, end_s: float | None) -> SpanS:
    if summary is not None and summary.get("window_s") is not None and end_s is not None:
        return SpanS(from_s=max(0.0, end_s - summary["window_s"]), to_s=end_s)
    return SpanS(from_s=load.get("warmup_s") or 0.0, to_s=end_s)


def _stages(times: list[dict[str, Any]], manifest: Mapping[str, Any], span_s: float) -> tuple[Stage, ...]:
    begun = [(start_s, each) for each in times if (start_s := _since(each["start_unix_s"], manifest)) is not None]
    following = [*(start_s for start_s, _ in begun[1:]), span_s]
    return tuple(
        Stage(
            name=each["name"],
            from_s=start_s,
            judged_from_s=_since(each["window_start_unix_s"], manifest),
            to_s=_since(each["end_unix_s"], manifest) or next_s,
            users=each.get("users"),
            rate_per_s=each.get("rate_per_s"),
        )
        for (start_s, each), next_s in zip(begun, following, strict=False)
    )


def _since(unix_s: float | None, manifest: Mapping[str, Any]) -> float | None:
    return None if unix_s is None else float(unix_s - manifest["started_unix_s"])
