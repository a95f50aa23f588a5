"""The summary of a run that left none: it crashed, or goes on."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason, health, judge
from llmload.record import Slo
from llmload.runs.build_summary import RunOutcome, StageTotals, build_summary
from llmload.runs.manifest import Manifest
from llmload.runs.request_table import Columns, Floats, Mask
from llmload.runs.summary import Summary
from llmload.stats.histogram import Histogram

# A run's totals, counted anew from its requests: `RunTotals.add` of many requests at a time.

_COUNTED: Final = ("prompt_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowS:
    """A judged span in seconds since the run's start, ends included; `from_s` is None where it never opened."""

    from_s: float | None
    to_s: float | None

    def holds(self, moments_s: Floats) -> Mask:
        """Return which moments lie in the span."""
        if self.from_s is None:
            return np.zeros(len(moments_s), dtype=np.bool_)
        return (moments_s >= self.from_s) & (moments_s <= self._end_s)

    def overlap_s(self, from_s: Floats, to_s: Floats) -> float:
        """Return how much time of all those spans lies in this one, added up."""
        if self.from_s is None:
            return 0.0
        return float(np.maximum(0.0, np.minimum(to_s, self._end_s) - np.maximum(from_s, self.from_s)).sum())

    @property
    def _end_s(self) -> float:
        return np.inf if self.to_s is None else self.to_s

    @property
    def length_s(self) -> float | None:
        """How long it is; None where it has not opened or not closed."""
        if self.from_s is None or self.to_s is None or self.to_s <= self.from_s:
            return None
        return self.to_s - self.from_s


def add(totals: RunTotals, columns: Columns, *, window: WindowS, slo: Slo) -> None:
    """Count requests that have ended as `RunTotals.add` does, and each as started."""
    completed, failed = columns.completed, columns.failed
    started_in, done_in = window.holds(columns.start_s), window.holds(columns.done_s)
    first_s, last_s = float(columns.start_s.min()), float(columns.done_s.max())
    totals.first_started_s = first_s if totals.first_started_s is None else min(first_s, totals.first_started_s)
    totals.last_done_s = last_s if totals.last_done_s is None else max(last_s, totals.last_done_s)
    totals.busy_s += window.overlap_s(columns.start_s, columns.done_s)
    totals.reconnects += int(columns.reconnects.sum())
    totals.retries += int(columns.retries.sum())
    totals.started += len(columns)
    totals.completed += _count(completed)
    totals.failed += _count(failed)
    totals.censored += len(columns) - _count(completed) - _count(failed)
    totals.errors.update(Counter(error for error in columns.error if error is not None))
    totals.failed_in_window += _count(failed & done_in)
    for name in ("ttft_s", "e2e_s"):
        totals.distributions[name].add_infinite(_count(failed & started_in))
    output_tokens = columns.numbers["output_tokens"]
    arrives = ~failed & ~np.isnan(output_tokens)
    totals.window_tokens += float((output_tokens * share_inside(columns, window))[arrives].sum())
    _add_answers(totals, columns, completed, done_in, slo)
    _add_judged(totals, columns, completed & started_in)
    gap_s, of_request = np.maximum(columns.gap_s, 0.0), np.repeat(np.arange(len(columns)), columns.gaps)
    later = ~columns.first_of_each()
    for answers, to in ((completed & started_in, totals.distributions), (completed & ~started_in, totals.outside)):
        _add_distributions(columns, answers, to)
        _of(to, "itl_s").add_many(gap_s[later & answers[of_request]])


def share_inside(columns: Columns, window: WindowS) -> Floats:
    """Return which share of each answer arrived in the window: by its chunks where they were recorded."""
    done_in = window.holds(columns.done_s).astype(np.float64)
    inside = np.zeros(len(columns.gap_s) + 1)
    np.cumsum(window.holds(columns.stamps_s()), out=inside[1:])
    ends = np.cumsum(columns.gaps)
    by_chunks = (inside[ends] - inside[ends - columns.gaps]) / np.maximum(columns.gaps, 1)
    return np.where(columns.gaps > 0, by_chunks, done_in)


def _add_answers(totals: RunTotals, columns: Columns, completed: Mask, done_in: Mask, slo: Slo) -> None:
    arrived = {"arrived_tokens": "output_tokens", "arrived_prompt_tokens": "prompt_tokens"}
    for name, of in {**arrived, "arrived_cached_tokens": "cached_tokens"}.items():
        setattr(totals, name, getattr(totals, name) + int(np.nansum(columns.numbers[of][completed])))
    good = completed & meets(columns, slo)
    totals.good += _count(good)
    totals.completed_in_window += _count(completed & done_in)
    totals.good_in_window += _count(good & done_in)


def meets(columns: Columns, slo: Slo) -> Mask:
    """Return which requests pass no limit, as `Slo.met_by` has it, whatever their outcome."""
    good = np.ones(len(columns), dtype=np.bool_)
    for name, limit in slo.limits.items():
        measured = columns.e2e_s if name == "e2e_s" else columns.numbers[name]
        met = measured <= limit  # NaN, which is unknown, does not
        if name == "tpot_s":
            met |= np.isnan(measured) & (columns.numbers["output_tokens"] < 2)
        good &= met
    return good


def _add_judged(totals: RunTotals, columns: Columns, judged: Mask) -> None:
    places = np.flatnonzero(judged).tolist()
    totals.finish_reasons.update(Counter(columns.finish_reason[index] or "none" for index in places))
    totals.token_sources.update(Counter(columns.token_source[index] for index in places))
    totals.stamp_sources.update(Counter(columns.stamp_source[index] for index in places))
    totals.chunks += int(columns.chunks[judged].sum())
    totals.coalesced_chunks += int(columns.coalesced_chunks[judged].sum())
    for name in _COUNTED:
        setattr(totals, name, getattr(totals, name) + int(np.nansum(columns.numbers[name][judged])))
    told = judged & ~np.isnan(columns.numbers["cached_tokens"])
    totals.prompt_tokens_with_cache_info += int(np.nansum(columns.numbers["prompt_tokens"][told]))
    output_tokens = columns.numbers["output_tokens"][judged]
    totals.uncounted_answers += _count(np.isnan(output_tokens))
    totals.contradicted_answers += _count(output_tokens < columns.chunks[judged])


def _add_distributions(columns: Columns, answers: Mask, to: dict[str, Histogram]) -> None:
    numbers, lag_s = columns.numbers, columns.schedule_lag_s
    single = {
        "ttft_s": numbers["ttft_s"],
        "tpot_s": numbers["tpot_s"],
        "e2e_s": columns.e2e_s,
        "request_output_tokens_per_s": numbers["output_tokens_per_s"],
        "request_prompt_tokens": numbers["prompt_tokens"],
        "request_output_tokens": numbers["output_tokens"],
        "schedule_lag_s": lag_s,
        "ttft_from_schedule_s": numbers["ttft_s"] + lag_s,
        "e2e_from_schedule_s": columns.e2e_s + lag_s,
    }
    for name, values in single.items():
        known = values[answers & ~np.isnan(values)]
        _of(to, name).add_many(np.maximum(known, 0.0))


def _of(histograms: dict[str, Histogram], name: str) -> Histogram:
    return histograms.setdefault(name, Histogram())


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


# When the judged window and the stages of a run lay, by its manifest.


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
    def window(self) -> WindowS:
        """The part of it that is judged."""
        return WindowS(from_s=self.judged_from_s, to_s=self.to_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The parts of a run on its own time axis, in seconds since its start."""

    window: WindowS
    estimated: bool
    """Whether the run did not write down where its window lay."""
    stages: tuple[Stage, ...]

    def drawn(self, totals: RunTotals) -> WindowS:
        """Return the window with both ends: a counted run's reaches from its first request to its last answer."""
        window, first_s, last_s = self.window, totals.first_started_s, totals.last_done_s
        if window.from_s is None or window.to_s is not None or first_s is None or last_s is None:
            return window
        return WindowS(from_s=max(first_s, window.from_s), to_s=last_s)


def read_periods(manifest: Manifest, *, last_s: float, span_s: float) -> Periods:
    """
    Return when window and stages lay.

    `last_s` is when the last request ended, `span_s` the length of the whole run, both since the run's start.
    """
    times, duration_s = manifest.timeline, manifest.scenario.load.ends_after_s
    end_s = None if duration_s is None else min(last_s, duration_s)
    to_s = _since(times.window_end_unix_s, manifest)
    return Periods(
        window=WindowS(from_s=_since(times.window_start_unix_s, manifest), to_s=end_s if to_s is None else to_s),
        estimated=to_s is None and end_s is not None,
        stages=_stages_of_manifest(manifest, span_s),
    )


def _stages_of_manifest(manifest: Manifest, span_s: float) -> tuple[Stage, ...]:
    times = manifest.timeline.stages
    begun = [(start_s, each) for each in times if (start_s := _since(each.start_unix_s, manifest)) is not None]
    following = [*(start_s for start_s, _ in begun[1:]), span_s]
    return tuple(
        Stage(
            name=each.name,
            from_s=start_s,
            judged_from_s=_since(each.window_start_unix_s, manifest),
            to_s=_since(each.end_unix_s, manifest) or next_s,
            users=each.users,
            rate_per_s=each.rate_per_s,
        )
        for (start_s, each), next_s in zip(begun, following, strict=False)
    )


def _since(unix_s: float | None, manifest: Manifest) -> float | None:
    return None if unix_s is None else unix_s - manifest.started_unix_s


SILENT_S: Final = 60.0
"""A run that goes on writes more often than this, mostly."""
_ONLY_THE_RUN_KNEW: Final = ("dropped_share", "reused_prompt_share", "event_loop_lag_p99_s")


def why_recomputed(started_unix_s: float, files: Sequence[Path]) -> str:
    """Return in words why there is no summary, and where the figures come from instead."""
    silent_s = time.time() - max((file.stat().st_mtime for file in files), default=started_unix_s)
    state = "the run goes on, or ended without a word" if silent_s < SILENT_S else "the run ended without a word"
    return f"{state}: it left no summary.json, so these figures are counted from the requests that it wrote down"


def recomputed_summary(
    manifest: Manifest, totals: RunTotals, periods: Periods, of_stages: Mapping[str, RunTotals], why: str
) -> Summary:
    """Return the summary that the run would have left, `recomputed` besides; what only the run itself knew is None."""
    known = {name: value for name, value in health(totals).items() if name not in _ONLY_THE_RUN_KNEW}
    window = periods.drawn(totals)
    opened_s = None if window.length_s is None else window.from_s
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
