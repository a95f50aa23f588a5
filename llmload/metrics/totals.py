"""Sums over the requests of a run, kept so that those of several processes merge exactly."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np

from llmload.record import Outcome, RequestRecord, Slo
from llmload.stats.histogram import Exemplar, Histogram, slowest
from llmload.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """
    The span of a run that is judged, on this process's monotonic clock; warm-up, ramp and drain lie outside.

    `start_ns` is None until the window opens, `end_ns` until it closes.
    """

    start_ns: int | None
    end_ns: int | None = None

    @property
    def length_s(self) -> float | None:
        """How long the window is, in seconds; None for one that has not opened, not closed, or nothing between."""
        if self.start_ns is None or self.end_ns is None or self.end_ns <= self.start_ns:
            return None
        return (self.end_ns - self.start_ns) / NS_PER_S

    def overlap_s(self, from_ns: int, to_ns: int) -> float:
        """Return how much of a span lies in the window, in seconds."""
        if self.start_ns is None:
            return 0.0
        end_ns = to_ns if self.end_ns is None else min(to_ns, self.end_ns)
        return max(0, end_ns - max(from_ns, self.start_ns)) / NS_PER_S

    def holds(self, moment_ns: int) -> bool:
        """Return whether the moment lies in the window."""
        if self.start_ns is None or moment_ns < self.start_ns:
            return False
        return self.end_ns is None or moment_ns <= self.end_ns

    def share_of(self, record: RequestRecord) -> float:
        """Return which share (0 to 1) of the record's answer arrived inside the window, by its chunks."""
        if len(record.chunk_ns) == 0:
            return float(self.holds(record.done_ns))
        if self.start_ns is None:
            return 0.0
        if self.holds(record.started_ns) and self.holds(record.done_ns):
            return 1.0
        inside = record.chunk_ns >= self.start_ns
        if self.end_ns is not None:
            inside &= record.chunk_ns <= self.end_ns
        return float(np.count_nonzero(inside)) / len(record.chunk_ns)


DISTRIBUTIONS: Final = (
    "ttft_s",
    "itl_s",
    "tpot_s",
    "e2e_s",
    "request_output_tokens_per_s",
    "request_prompt_tokens",
    "request_output_tokens",
    "schedule_lag_s",
    "ttft_from_schedule_s",
    "e2e_from_schedule_s",
    "event_loop_lag_s",
)
_COUNTS: Final = (
    "started",
    "completed",
    "failed",
    "censored",
    "dropped",
    "completed_in_window",
    "failed_in_window",
    "good_in_window",
    "prompt_tokens",
    "cached_tokens",
    "prompt_tokens_with_cache_info",
    "output_tokens",
    "reasoning_tokens",
    "chunks",
    "coalesced_chunks",
    "reconnects",
    "retries",
    "reused_prompts",
    "arrived_tokens",
    "arrived_prompt_tokens",
    "arrived_cached_tokens",
    "good",
    "contradicted_answers",
    "busy_s",
)
WITH_EXEMPLARS: Final = ("ttft_s", "e2e_s")
_FIRST: Final = ("ttft_s", "itl_s", "tpot_s", "e2e_s")
"""What is watched while a run goes on, and so stays fine for longest."""
EVERY: Final = ((1, 1), (1, 3), (3, 3), (3, 9), (9, 9), (9, 27), (27, 27), (81, 81))
"""How many buckets of a histogram go as one, of the first ones and of all others, from fine to coarse."""
COARSEST: Final = len(EVERY) - 1
_TALLIES: Final = ("errors", "finish_reasons", "token_sources", "stamp_sources")


@dataclass(slots=True)
class RunTotals:
    """
    What a run has come to so far.

    `started completed failed censored errors good` and `arrived_*` count every request of the run, and so does
    `whole()`; everything else speaks of the window: `completed_in_window` of answers that ended in it, `window_tokens`
    of tokens that arrived in it, distributions and token counts of answers whose request started in it.
    """

    started: int = 0
    completed: int = 0
    failed: int = 0
    censored: int = 0
    dropped: int = 0
    completed_in_window: int = 0
    failed_in_window: int = 0
    good_in_window: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_tokens_with_cache_info: int = 0
    """Prompt tokens of those answers that say how many of them were cached."""
    output_tokens: int = 0
    reasoning_tokens: int = 0
    chunks: int = 0
    coalesced_chunks: int = 0
    reconnects: int = 0
    retries: int = 0
    reused_prompts: int = 0
    window_tokens: float = 0.0
    arrived_tokens: int = 0
    """Output tokens of all complete answers, in the window or not."""
    arrived_prompt_tokens: int = 0
    arrived_cached_tokens: int = 0
    good: int = 0
    """Answers that met every limit, in the window or not."""
    busy_s: float = 0.0
    """Time that requests spent in flight inside the window, added up: over the window's length, the mean in flight."""
    contradicted_answers: int = 0
    """Answers in the window with fewer output tokens, by the engine's count, than chunks with text."""
    uncounted_answers: int = 0
    """Answers in the window for which no output token count is known."""
    first_started_s: float | None = None
    last_done_s: float | None = None
    """Seconds since the run's start on the process that sent the request."""
    errors: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    token_sources: Counter[str] = field(default_factory=Counter)
    stamp_sources: Counter[str] = field(default_factory=Counter)
    distributions: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in DISTRIBUTIONS})
    outside: dict[str, Histogram] = field(default_factory=dict)
    """Distributions of answers whose request started outside the window; empty without a warm-up."""
    exemplars: dict[str, list[Exemplar]] = field(default_factory=dict)
    """The slowest requests of late, in the window or not; one of each process, the few slowest where they merge."""

    @property
    def ended(self) -> int:
        """Requests that have ended, however they did."""
        return self.completed + self.failed + self.censored

    @property
    def in_flight(self) -> int:
        """Requests that are on their way."""
        return self.started - self.ended

    @property
    def cached_token_share(self) -> float | None:
        """Which share of prompt tokens the engine says it had cached; None where no answer says so."""
        told = self.prompt_tokens_with_cache_info
        return self.cached_tokens / told if told else None

    def whole(self, name: str) -> Histogram:
        """Return a distribution over every answer of the run, in the window or not."""
        histogram = Histogram()
        histogram.merge(*(each[name] for each in (self.distributions, self.outside) if name in each))
        return histogram

    def cut_in_flight(self) -> None:
        """Count what is on its way as censored: its process is lost, and nobody will know how it ended."""
        self.censored += self.in_flight

    def add(self, record: RequestRecord, *, window: Window, slo: Slo, run_start_ns: int) -> None:
        """Count a request that has ended; whoever started it has counted `started`."""
        started_s = (record.started_ns - run_start_ns) / NS_PER_S
        done_s = (record.done_ns - run_start_ns) / NS_PER_S
        self.first_started_s = started_s if self.first_started_s is None else min(self.first_started_s, started_s)
        self.last_done_s = done_s if self.last_done_s is None else max(self.last_done_s, done_s)
        self.busy_s += window.overlap_s(record.started_ns, record.done_ns)
        self.reconnects += record.reconnects
        self.retries += record.retries
        began_in, ended_in = window.holds(record.started_ns), window.holds(record.done_ns)
        if record.outcome is Outcome.CENSORED:
            self.censored += 1
        elif record.outcome is Outcome.FAILED:
            self._add_failure(record, began_in=began_in, ended_in=ended_in)
        else:
            self._add_answer(record, slo, began_in=began_in, ended_in=ended_in)
        if record.output_tokens is not None and record.outcome is not Outcome.FAILED:
            self.window_tokens += record.output_tokens * window.share_of(record)

    def _add_failure(self, record: RequestRecord, *, began_in: bool, ended_in: bool) -> None:
        self.failed += 1
        if record.error is not None:
            self.errors[record.error.type.value] += 1
        self.failed_in_window += ended_in
        if began_in:
            for name in ("ttft_s", "e2e_s"):
                self.distributions[name].add_infinite()

    def _add_answer(self, record: RequestRecord, slo: Slo, *, began_in: bool, ended_in: bool) -> None:
        output_tokens, prompt_tokens = record.output_tokens or 0, record.prompt_tokens or 0
        self.completed += 1
        self.arrived_tokens += output_tokens
        self.arrived_prompt_tokens += prompt_tokens
        self.arrived_cached_tokens += record.cached_tokens or 0
        good = slo.met_by(record)
        self.good += good
        if ended_in:
            self.completed_in_window += 1
            self.good_in_window += good
        if not began_in:
            self._add_distributions(record, self.outside)
            return
        self.finish_reasons[record.finish_reason or "none"] += 1
        self.token_sources[str(record.token_source)] += 1
        self.stamp_sources[str(record.stamp_source)] += 1
        self.chunks += len(record.chunk_ns)
        self.coalesced_chunks += record.coalesced_chunks
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += record.cached_tokens or 0
        self.output_tokens += output_tokens
        self.reasoning_tokens += record.reasoning_tokens or 0
        if record.cached_tokens is not None:
            self.prompt_tokens_with_cache_info += prompt_tokens
        self.uncounted_answers += record.output_tokens is None
        self.contradicted_answers += record.output_tokens is not None and output_tokens < len(record.chunk_ns)
        self._add_distributions(record, self.distributions)

    def _add_distributions(self, record: RequestRecord, to: dict[str, Histogram]) -> None:
        lag_s, ttft_s = record.schedule_lag_s, record.ttft_s
        single = {
            "ttft_s": ttft_s,
            "tpot_s": record.tpot_s,
            "e2e_s": record.e2e_s,
            "request_output_tokens_per_s": record.output_tokens_per_s,
            "request_prompt_tokens": record.prompt_tokens,
            "request_output_tokens": record.output_tokens,
            "schedule_lag_s": lag_s,
            "ttft_from_schedule_s": None if lag_s is None or ttft_s is None else ttft_s + lag_s,
            "e2e_from_schedule_s": None if lag_s is None else record.e2e_s + lag_s,
        }
        for name, value in single.items():
            if value is not None:
                _of(to, name).add(max(0.0, value))
        _of(to, "itl_s").add_many(np.maximum(record.itl_s, 0.0))
        now_s = time.time()
        for name in WITH_EXEMPLARS:
            self._stand_for_others(name, single[name], record.request_id, now_s)

    def _stand_for_others(self, name: str, value: float | None, request_id: str, unix_s: float) -> None:
        if value is None:
            return
        known = self.exemplars.get(name)
        if not known or known[0].gives_way_to(value, unix_s):
            self.exemplars[name] = [Exemplar(max(0.0, value), request_id, unix_s)]

    def merge(self, *others: Self) -> None:
        """Add everything that the other totals hold."""
        for name in (*_COUNTS, "window_tokens", "uncounted_answers"):
            setattr(self, name, sum([getattr(other, name) for other in others], getattr(self, name)))
        for name in _TALLIES:
            for other in others:
                getattr(self, name).update(getattr(other, name))
        everyone = (self, *others)
        starts = [each.first_started_s for each in everyone if each.first_started_s is not None]
        ends = [each.last_done_s for each in everyone if each.last_done_s is not None]
        self.first_started_s, self.last_done_s = min(starts, default=None), max(ends, default=None)
        for name in DISTRIBUTIONS:
            self.distributions[name].merge(*(other.distributions[name] for other in others))
            outside = [other.outside[name] for other in others if name in other.outside]
            if outside:
                _of(self.outside, name).merge(*outside)
        for name in WITH_EXEMPLARS:
            known = [exemplar for each in everyone for exemplar in each.exemplars.get(name, ())]
            if known:
                self.exemplars[name] = slowest(known)

    def to_message(self, *, with_outside: bool = True, coarseness: int = 0) -> dict[str, Any]:
        """
        Return the totals as plain values, fit for msgpack; without what started outside the window if so asked.

        Each step of `coarseness`, up to `COARSEST`, makes it smaller and quantiles less fine: see `EVERY`.
        """
        first, others = EVERY[coarseness]
        names = (*_COUNTS, "window_tokens", "uncounted_answers", "first_started_s", "last_done_s")
        message: dict[str, Any] = {name: getattr(self, name) for name in names}
        message |= {name: dict(getattr(self, name)) for name in _TALLIES}
        message["distributions"] = {
            **_messages({name: self.distributions[name] for name in _FIRST}, first),
            **_messages({name: self.distributions[name] for name in DISTRIBUTIONS if name not in _FIRST}, others),
        }
        message["outside"] = _messages(self.outside, others) if with_outside else {}
        message["exemplars"] = {name: [each.to_message() for each in of] for name, of in self.exemplars.items()}
        return message

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Self:
        """Return the totals that `to_message` described."""
        self = cls()
        for name, value in message.items():
            if name in {"distributions", "outside"}:
                getattr(self, name).update({of: Histogram.from_message(each) for of, each in value.items()})
            elif name == "exemplars":
                self.exemplars = {of: [Exemplar.from_message(each) for each in few] for of, few in value.items()}
            else:
                setattr(self, name, Counter(value) if name in _TALLIES else value)
        return self


def _of(histograms: dict[str, Histogram], name: str) -> Histogram:
    histogram = histograms.get(name)
    if histogram is None:
        histogram = histograms[name] = Histogram()
    return histogram


def _messages(histograms: dict[str, Histogram], every: int) -> dict[str, Any]:
    return {name: each.to_message(every) for name, each in histograms.items() if each.seen or each.infinite}
