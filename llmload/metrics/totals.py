"""
Sums over the requests of a run that merge exactly: over processes, and over blocks of a run folder.

Requests are counted on two paths: one record at a time while a run sends (`add`), and a table at a time when a report
reads a run folder (`add_table`). A record costs 20 to 25 us; as a row of a table of 16, as a busy process counts, 23 to
27 us; of 4, 65 to 75 us; alone, as a slow run counts, 230 us (2 CPUs, 16 and 128 chunks). So both stay, side by side
here, driven by the fields' own declarations; tests/metrics/test_totals.py compares them field by field.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum, auto
from typing import Any, Final, Self

import numpy as np

from llmload.metrics.asked import LengthsKept, add_length, add_lengths
from llmload.metrics.failures import Failures
from llmload.metrics.requests import (
    DISTRIBUTIONS,
    FIELD_OF,
    LATENCIES,
    SELDOM,
    WITH_EXEMPLARS,
    WITH_FAILURES,
    Floats,
    Mask,
    RequestTable,
    compiled,
)
from llmload.record import CONTRADICTED, Outcome, ReasoningSource, RequestRecord, Slo, Window
from llmload.stats.histogram import Exemplar, Histogram, slowest
from llmload.units import NS_PER_S

_ONE_A_REQUEST: Final = tuple((name, of) for name, of in FIELD_OF.items() if of is not None)
MERGE_FACTORS: Final = ((1, 1), (1, 3), (3, 3), (3, 9), (9, 9), (9, 27), (27, 27), (81, 81), (81, 243))
"""Histogram buckets that become one in a message, per level of coarseness: (`LATENCIES`, other distributions)."""
COARSEST: Final = len(MERGE_FACTORS) - 1


class Distributions(dict[str, Histogram]):
    """Histograms by name; those of names that were never seen do not exist."""

    def of(self, name: str) -> Histogram:
        """Return the histogram of that name, an empty one where there was none."""
        histogram = self.get(name)
        if histogram is None:
            histogram = self[name] = Histogram()
        return histogram

    def merge(self, *others: Self) -> None:
        """Add the histograms of the others."""
        for name in dict.fromkeys(name for each in others for name in each):
            self.of(name).merge(*(each[name] for each in others if name in each))

    def to_message(self, coarseness: int) -> dict[str, Any]:
        """Return those that are not empty as plain values."""
        watched, others = MERGE_FACTORS[coarseness]
        return {
            name: each.to_message(watched if name in LATENCIES else others)
            for name, each in self.items()
            if each.seen or each.infinite
        }

    def update_from(self, message: Mapping[str, Any]) -> None:
        """Set the histograms that `to_message` described."""
        self.update({name: Histogram.from_message(each) for name, each in message.items()})


class Exemplars(dict[str, list[Exemplar]]):
    """The slowest recent requests by distribution: one of a process, a few where processes merge."""

    def offer(self, name: str, value: float, request_id: str, unix_s: float) -> None:
        """Take the request if it is slower than the present one, or that one is old."""
        present = self.get(name)
        if not present or present[0].is_replaced_by(value, unix_s):
            self[name] = [Exemplar(max(0.0, value), request_id, unix_s)]

    def merge(self, *others: Self) -> None:
        """Keep the slowest recent ones of all."""
        for name in dict.fromkeys(name for each in others for name in each):
            self[name] = slowest(exemplar for each in (self, *others) for exemplar in each.get(name, ()))

    def to_message(self, _: int) -> dict[str, Any]:
        """Return them as plain values."""
        return {name: [each.to_message() for each in few] for name, few in self.items()}

    def update_from(self, message: Mapping[str, Any]) -> None:
        """Set what `to_message` described."""
        self.update({name: [Exemplar.from_message(each) for each in few] for name, few in message.items()})


_PARTS: Final = (Distributions, Exemplars, Failures)
"""What merges and is sent by its own methods."""


class _Over(Enum):
    """Which requests a figure is summed over."""

    ENDED = auto()  # every request of the run that has ended
    ANSWERS = auto()  # every complete answer of the run
    ANSWERS_IN_WINDOW = auto()  # complete answers whose request started in the window


def _sum(of: str, over: _Over) -> Any:
    """Declare the sum of a request's field (0 where it is unknown)."""
    return field(default=0, metadata={"sum": (over, of)})


def _optional(merge: Any) -> Any:
    """Declare a number that is None until there is one; `merge` is how two become one."""
    return field(default=None, metadata={"merge": merge})


@dataclass(slots=True)
class RunTotals:
    """
    The counts and distributions of a run so far.

    A field says what it counts: requests that ended, answers that ended in the window (`*_in_window`), tokens that
    arrived in it (`window_tokens`), or answers whose request started in it (the token counts and distributions).
    Fields are merged, sent and compared by their type alone: a new one is declared here, and counted in both of
    `add` and `add_table` where it is neither a `_sum` nor a tally of a field's values.
    """

    started: int = 0
    """Requests that were started; the session counts these, `dropped` and `reused_prompts`."""
    completed: int = 0
    failed: int = 0
    censored: int = 0
    dropped: int = 0
    reused_prompts: int = 0
    lost_lines: Counter[str] = field(default_factory=Counter)
    """Requests that have ended and have no line on the disk, by the reason."""
    reconnects: int = _sum("reconnects", _Over.ENDED)
    retries: int = _sum("retries", _Over.ENDED)
    errors: Counter[str] = field(default_factory=Counter)
    failures: Failures = field(default_factory=Failures)
    """The same by status and the engine's words, too."""
    busy_s: float = 0.0
    """Time in flight inside the window, summed over requests: over the window's length, the mean in flight."""
    window_tokens: float = 0.0
    """Output tokens that arrived in the window."""
    first_started_s: float | None = _optional(min)
    last_done_s: float | None = _optional(max)
    """Seconds since the run's start on the process that sent the request."""

    good: int = 0
    """Answers that met every limit, of the whole run."""
    arrived_tokens: int = _sum("output_tokens", _Over.ANSWERS)
    arrived_prompt_tokens: int = _sum("prompt_tokens", _Over.ANSWERS)
    arrived_cached_tokens: int = _sum("cached_tokens", _Over.ANSWERS)

    completed_in_window: int = 0
    good_in_window: int = 0
    failed_in_window: int = 0

    prompt_tokens: int = _sum("prompt_tokens", _Over.ANSWERS_IN_WINDOW)
    cached_tokens: int = _sum("cached_tokens", _Over.ANSWERS_IN_WINDOW)
    prompt_tokens_with_cache_info: int = 0
    """Prompt tokens of answers that report how many of them were cached."""
    output_tokens: int = _sum("output_tokens", _Over.ANSWERS_IN_WINDOW)
    reasoning_tokens: int = _sum("reasoning_tokens", _Over.ANSWERS_IN_WINDOW)
    drafts: int = _sum("drafts", _Over.ANSWERS_IN_WINDOW)
    draft_tokens: int = _sum("draft_tokens", _Over.ANSWERS_IN_WINDOW)
    accepted_tokens: int = _sum("accepted_tokens", _Over.ANSWERS_IN_WINDOW)
    reasoned_answers: int = 0
    """Answers with reasoning, by their chunks or by the engine's count; as the next three, of the window."""
    hidden_reasoning_answers: int = 0
    """Those of which the engine counted reasoning and sent none."""
    only_reasoning_answers: int = 0
    """Those that ended before their first chunk of an answer."""
    estimated_reasoning_answers: int = 0
    """Those whose reasoning tokens are estimated by the share of chunks."""
    chunks: int = _sum("chunks", _Over.ANSWERS_IN_WINDOW)
    coalesced_chunks: int = _sum("coalesced_chunks", _Over.ANSWERS_IN_WINDOW)
    same_segment_chunks: int = _sum("same_segment_chunks", _Over.ANSWERS_IN_WINDOW)
    retransmissions: int = _sum("retransmissions", _Over.ENDED)
    late_segments: int = _sum("late_segments", _Over.ENDED)
    engine_closed_windows: int = _sum("engine_closed_windows", _Over.ENDED)
    client_closed_windows: int = _sum("client_closed_windows", _Over.ENDED)
    missed_bytes: int = _sum("missed_bytes", _Over.ENDED)
    dropped_segments: int = 0
    """Segments that the packet rings had no room for; counted by the session, at its end."""
    resets: Counter[str] = field(default_factory=Counter)
    """Requests whose connection was reset, by the side that did it."""
    engine_writes: Counter[str] = field(default_factory=Counter)
    """Requests that have ended, by what was known of the engine then: `ENGINE_WRITES`."""
    first_chunk_shared: int = 0
    """Answers whose first chunk with text was read together with the second; 0 where a table lacks the chunks."""
    contradicted_answers: int = 0
    """Answers whose output tokens the engine counted at odds with its own total or with the chunks that came."""
    uncounted_answers: int = 0
    """Answers with no known count of output tokens."""
    prompt_lengths: Counter[str] = field(default_factory=Counter)
    """Of answers whose prompt was to have a length: see `llmload.metrics.asked`."""
    output_lengths: Counter[str] = field(default_factory=Counter)
    """The same of the answers' own."""
    prompt_length_off_max: int | None = _optional(max)
    output_length_off_max: int | None = _optional(max)
    """The most tokens that one is off its length."""
    finish_reasons: Counter[str] = field(default_factory=Counter, metadata={"tally": "finish_reason"})
    token_sources: Counter[str] = field(default_factory=Counter, metadata={"tally": "token_source"})
    stamp_sources: Counter[str] = field(default_factory=Counter, metadata={"tally": "stamp_source"})
    distributions: Distributions = field(default_factory=lambda: Distributions({n: Histogram() for n in DISTRIBUTIONS}))
    out_of_window: Distributions = field(default_factory=Distributions)
    """Distributions of answers whose request started outside the window; empty without a warm-up."""
    exemplars: Exemplars = field(default_factory=Exemplars)
    """Of a live run alone, in the window or not."""

    @property
    def ended(self) -> int:
        """Requests that have ended, with any outcome."""
        return self.completed + self.failed + self.censored

    @property
    def written(self) -> int:
        """Requests that have ended and have a line on the disk."""
        return self.ended - self.lost_lines.total()

    @property
    def in_flight(self) -> int:
        """Requests that were started and have not ended."""
        return self.started - self.ended

    @property
    def cached_token_share(self) -> float | None:
        """The share of prompt tokens that the engine reports as cached; None where no answer reports it."""
        reported = self.prompt_tokens_with_cache_info
        return self.cached_tokens / reported if reported else None

    def all_answers(self, name: str) -> Histogram:
        """Return a distribution over every answer of the run, in the window or not."""
        histogram = Histogram()
        histogram.merge(*(each[name] for each in (self.distributions, self.out_of_window) if name in each))
        return histogram

    def measures(self, name: str) -> bool:
        """Return whether a distribution says something; the time to first answer, only where there is reasoning."""
        return bool(self.distributions[name].count) and (name != "ttfa_s" or bool(self.reasoned_answers))

    def cut_in_flight(self) -> None:
        """Count requests in flight as censored: their process is lost, and how they ended is unknown."""
        self.censored += self.in_flight

    def add(self, record: RequestRecord, *, window: Window, slo: Slo, run_start_ns: int) -> None:
        """Count a request that has ended; the session has counted its start."""
        started_s = (record.started_ns - run_start_ns) / NS_PER_S
        done_s = (record.done_ns - run_start_ns) / NS_PER_S
        self.first_started_s = started_s if self.first_started_s is None else min(self.first_started_s, started_s)
        self.last_done_s = done_s if self.last_done_s is None else max(self.last_done_s, done_s)
        self.busy_s += window.overlap_s(record.started_ns, record.done_ns)
        _ADD_SUMS[_Over.ENDED](self, record)
        if record.reset_by is not None:
            self.resets[record.reset_by] += 1
        if record.engine_writes is not None:
            self.engine_writes[record.engine_writes] += 1
        started_in, done_in = window.contains(record.started_ns), window.contains(record.done_ns)
        if record.outcome is Outcome.CENSORED:
            self.censored += 1
        elif record.outcome is Outcome.FAILED:
            self._add_failure(record, started_in=started_in, done_in=done_in)
        else:
            self._add_answer(record, slo, started_in=started_in, done_in=done_in)
        if record.output_tokens is not None and record.outcome is not Outcome.FAILED:
            self.window_tokens += record.output_tokens * _arrived_fraction(record, window)

    def _add_failure(self, record: RequestRecord, *, started_in: bool, done_in: bool) -> None:
        self.failed += 1
        self.failed_in_window += done_in
        if record.error is not None:
            self.errors[record.error.type.value] += 1
            self.failures.add(record.error.type.value, record.error.http_status, record.error.message)
        if started_in:
            for name in WITH_FAILURES:
                self.distributions[name].add_infinite()

    def _add_answer(self, record: RequestRecord, slo: Slo, *, started_in: bool, done_in: bool) -> None:
        good = slo.met_by(record)
        self.completed += 1
        self.good += good
        self.completed_in_window += done_in
        self.good_in_window += done_in and good
        _ADD_SUMS[_Over.ANSWERS](self, record)
        if started_in:
            _ADD_SUMS[_Over.ANSWERS_IN_WINDOW](self, record)
            self.first_chunk_shared += record.shares_first_read
            if record.cached_tokens is not None:
                self.prompt_tokens_with_cache_info += record.prompt_tokens or 0
            if record.output_tokens is None:
                self.uncounted_answers += 1
            self.contradicted_answers += record.token_source in CONTRADICTED
            if record.asked_prompt_tokens is not None or record.asked_output_tokens is not None:
                self._add_asked(record)
            if record.reasoning_chunks or record.reasoning_tokens:
                self.reasoned_answers += 1
                self.hidden_reasoning_answers += record.hides_reasoning
                self.only_reasoning_answers += record.only_reasoning
                self.estimated_reasoning_answers += record.reasoning_source is ReasoningSource.CHUNKS
        self._add_distributions(record, self.distributions if started_in else self.out_of_window)

    def _add_asked(self, record: RequestRecord) -> None:
        if record.asked_prompt_tokens is not None and record.prompt_tokens is not None:
            off = add_length(self.prompt_lengths, record.asked_prompt_tokens, record.prompt_tokens)
            self.prompt_length_off_max = max(off, self.prompt_length_off_max or 0)
        if record.asked_output_tokens is not None and record.output_tokens is not None:
            off = add_length(self.output_lengths, record.asked_output_tokens, record.output_tokens)
            self.output_length_off_max = max(off, self.output_length_off_max or 0)

    def _add_distributions(self, record: RequestRecord, to: Distributions) -> None:
        values = _values_of(record)
        own_times = (record.engine_queue_s, record.engine_prefill_s, record.engine_decode_s)
        if record.reasoning_chunks or own_times != _NO_TIMES:
            values |= _seldom_values_of(record)
        for name, value in values.items():
            if value is not None:
                to.of(name).add(value if value > 0 else 0.0)
        to.of("itl_s").add_many(np.maximum(record.itl_s, 0.0))
        now_s = time.time()
        for name in WITH_EXEMPLARS:
            if (value := values[name]) is not None:
                self.exemplars.offer(name, value, record.request_id, now_s)

    def add_table(self, table: RequestTable, *, window: Window, slo: Slo) -> None:
        """Count requests that have ended, and each as started; the window is on the table's clock."""
        started_in, done_in = window.which(table.started_ns), window.which(table.done_ns)
        completed, failed = table.completed, table.failed
        first_s, last_s = float(table.start_s.min()), float(table.done_s.max())
        self.first_started_s = first_s if self.first_started_s is None else min(first_s, self.first_started_s)
        self.last_done_s = last_s if self.last_done_s is None else max(last_s, self.last_done_s)
        self.busy_s += _overlaps_s(table, window)
        self.started += len(table)
        self.censored += len(table) - _count(completed) - _count(failed)
        self.resets.update(filter(None, table.categories["reset_by"]))
        self.engine_writes.update(filter(None, table.categories["engine_writes"]))
        self._add_failures(table, failed, started_in=started_in, done_in=done_in)
        self._add_answers(table, slo, started_in=started_in, done_in=done_in)
        over = {
            _Over.ENDED: np.ones(len(table), dtype=np.bool_),
            _Over.ANSWERS: completed,
            _Over.ANSWERS_IN_WINDOW: completed & started_in,
        }
        for each, which in over.items():
            for name, of in _SUMS[each]:
                setattr(self, name, getattr(self, name) + int(np.nansum(table.numbers[of][which])))
        output_tokens = table.numbers["output_tokens"]
        arriving = ~failed & ~np.isnan(output_tokens)
        self.window_tokens += float((output_tokens * _arrived_fractions(table, window))[arriving].sum())

    def _add_failures(self, table: RequestTable, failed: Mask, *, started_in: Mask, done_in: Mask) -> None:
        self.failed += _count(failed)
        self.failed_in_window += _count(failed & done_in)
        types, messages = table.categories["error_type"], table.categories["error_message"]
        statuses = table.numbers["error_http_status"]
        for index in np.flatnonzero(failed).tolist():
            error_type, status = types[index], statuses[index]
            if error_type is not None:
                self.errors[error_type] += 1
                self.failures.add(error_type, None if np.isnan(status) else int(status), messages[index] or "")
        for name in WITH_FAILURES:
            self.distributions[name].add_infinite(_count(failed & started_in))

    def _add_answers(self, table: RequestTable, slo: Slo, *, started_in: Mask, done_in: Mask) -> None:
        good = table.completed & met_by_each(slo, table)
        self.completed += _count(table.completed)
        self.good += _count(good)
        self.completed_in_window += _count(table.completed & done_in)
        self.good_in_window += _count(good & done_in)
        answers = table.completed & started_in
        indices = np.flatnonzero(answers).tolist()
        for name, of in _TALLIES:
            texts = table.categories[of]
            getattr(self, name).update(texts[index] or "none" for index in indices)
        prompt_tokens, output_tokens = table.numbers["prompt_tokens"], table.numbers["output_tokens"]
        with_cache_info = answers & ~np.isnan(table.numbers["cached_tokens"])
        self.prompt_tokens_with_cache_info += int(np.nansum(prompt_tokens[with_cache_info]))
        self.uncounted_answers += _count(answers & np.isnan(output_tokens))
        sources = table.categories["token_source"]
        self.contradicted_answers += sum(sources[index] in CONTRADICTED for index in indices)
        self._add_asked_of(table, answers)
        reasoned = answers & (table.numbers["has_reasoning"] > 0)
        self.reasoned_answers += _count(reasoned)
        self.hidden_reasoning_answers += _count(answers & (table.numbers["hides_reasoning"] > 0))
        self.only_reasoning_answers += _count(answers & (table.numbers["only_reasoning"] > 0))
        estimated = table.categories["reasoning_source"]
        self.estimated_reasoning_answers += sum(
            estimated[index] == ReasoningSource.CHUNKS for index in np.flatnonzero(reasoned)
        )
        gap_s, later = np.maximum(table.gap_s, 0.0), ~table.is_first_gap
        second = np.append(False, table.is_first_gap[:-1]) & later
        read = answers & ~table.stamped_by_packet
        self.first_chunk_shared += _count(second & (table.gaps_ns == 0) & read[table.owners])
        for which, to in ((answers, self.distributions), (table.completed & ~started_in, self.out_of_window)):
            for name, of in _ONE_A_REQUEST:
                values = table.numbers[of][which]
                to.of(name).add_many(np.maximum(values[~np.isnan(values)], 0.0))
            to.of("itl_s").add_many(gap_s[later & which[table.owners]])

    def _add_asked_of(self, table: RequestTable, answers: Mask) -> None:
        for of in ("prompt", "output"):
            asked, counted = table.numbers[f"asked_{of}_tokens"][answers], table.numbers[f"{of}_tokens"][answers]
            off = add_lengths(getattr(self, f"{of}_lengths"), asked, counted)
            if off is not None:
                name = f"{of}_length_off_max"
                setattr(self, name, max(off, getattr(self, name) or 0))

    @property
    def lengths_kept(self) -> tuple[LengthsKept | None, LengthsKept | None]:
        """How far prompts and answers have the lengths that were requested; None where none were."""
        return LengthsKept.of(self.prompt_lengths), LengthsKept.of(self.output_lengths)

    def merge(self, *others: Self) -> None:
        """Add the other totals to these."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), [getattr(other, each.name) for other in others]
            if isinstance(mine, Counter):
                for other in theirs:
                    mine.update(other)
            elif isinstance(mine, _PARTS):
                mine.merge(*theirs)
            elif (merge := each.metadata.get("merge")) is not None:
                setattr(self, each.name, merge((v for v in (mine, *theirs) if v is not None), default=None))
            else:
                setattr(self, each.name, sum(theirs, mine))

    def to_message(self, *, with_out_of_window: bool = True, coarseness: int = 0) -> dict[str, Any]:
        """
        Return the totals as plain values, fit for msgpack, with or without answers that started outside the window.

        Each step of `coarseness`, up to `COARSEST`, makes the message smaller and quantiles less exact: see
        `MERGE_FACTORS`.
        """
        message: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, _PARTS):
                value = value.to_message(coarseness)
            message[each.name] = dict(value) if isinstance(value, Counter) else value
        if not with_out_of_window:
            message["out_of_window"] = {}
        return message

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Return the totals that `to_message` described."""
        self = cls()
        for name, value in message.items():
            present = getattr(self, name)
            if isinstance(present, _PARTS):
                present.update_from(value)
            else:
                setattr(self, name, Counter(value) if isinstance(present, Counter) else value)
        return self


_SUMS: Final[Mapping[_Over, Sequence[tuple[str, str]]]] = {
    over: tuple((f.name, f.metadata["sum"][1]) for f in fields(RunTotals) if f.metadata.get("sum", ("",))[0] is over)
    for over in _Over
}
"""By whom it is summed over: each total, and the request's field that it sums."""
_TALLIED: Final = _Over.ANSWERS_IN_WINDOW
_TALLIES: Final = tuple((f.name, f.metadata["tally"]) for f in fields(RunTotals) if "tally" in f.metadata)

_NO_TIMES: Final = (None, None, None)


def _reader(names: Iterable[str]) -> Callable[[RequestRecord], dict[str, float | None]]:
    items = (f"{name!r}: record.{FIELD_OF[name]}" for name in names)
    read: Callable[[RequestRecord], dict[str, float | None]] = compiled("record", f"return {{{', '.join(items)}}}")
    return read


_values_of: Final = _reader(name for name, _ in _ONE_A_REQUEST if name not in SELDOM)
_seldom_values_of: Final = _reader(SELDOM)
_ADD_SUMS: Final[Mapping[_Over, Callable[[RunTotals, RequestRecord], None]]] = {
    over: compiled(
        "totals, record",
        *(f"totals.{name} += record.{of} or 0" for name, of in _SUMS[over]),
        *(f"totals.{name}[str(record.{of} or 'none')] += 1" for name, of in _TALLIES if over is _TALLIED),
    )
    for over in _Over
}


def met_by_each(slo: Slo, table: RequestTable) -> Mask:
    """Return which requests meet every limit, as `Slo.met_by` does, with any outcome."""
    met = np.ones(len(table), dtype=np.bool_)
    for name, limit in slo.limits.items():
        measured = table.numbers[name]
        within = measured <= limit  # NaN, which is unknown, is not
        if name == "tpot_s":
            within |= np.isnan(measured) & (table.numbers["output_tokens"] < 2)
        met &= within
    return met


def _overlaps_s(table: RequestTable, window: Window) -> float:
    """Return how long the requests were in flight inside the window, summed: `Window.overlap_s` of each."""
    if window.start_ns is None:
        return 0.0
    ends_ns = table.done_ns if window.end_ns is None else np.minimum(table.done_ns, window.end_ns)
    return float(np.maximum(0, ends_ns - np.maximum(table.started_ns, window.start_ns)).sum()) / NS_PER_S


def _arrived_fraction(record: RequestRecord, window: Window) -> float:
    """Return which part (0 to 1) of the answer arrived in the window: by its chunks, by its end where it has none."""
    if len(record.chunk_ns) == 0:
        return float(window.contains(record.done_ns))
    if window.contains(record.started_ns) and window.contains(record.done_ns):
        return 1.0
    return float(np.count_nonzero(window.which(record.chunk_ns))) / len(record.chunk_ns)


def _arrived_fractions(table: RequestTable, window: Window) -> Floats:
    """Return the same of each request; by its end, too, where the run did not record chunks."""
    inside = np.concatenate([[0], np.cumsum(window.which(table.stamps_ns))])
    ends = np.cumsum(table.gaps)
    by_chunks = (inside[ends] - inside[ends - table.gaps]) / np.maximum(table.gaps, 1)
    return np.where(table.gaps > 0, by_chunks, window.which(table.done_ns))


def merged(parts: Iterable[RunTotals]) -> RunTotals:
    """Return the sum of several totals."""
    whole = RunTotals()
    whole.merge(*parts)
    return whole


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
