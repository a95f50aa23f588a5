"""A run's requests as another tool would count them, and its figures with the statistics that tools share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmload.errors import RunFolderError
from llmload.metrics.requests import record_of
from llmload.record import Outcome, RequestRecord, StampArray
from llmload.runs.folder import RunFolder
from llmload.runs.summary import Summary
from llmload.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure: its key in the tool's export, where the tool prints it, and its value; None is unknown."""

    key: str
    row: str
    column: str = ""
    value: float | None
    digits: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a tool prints under one heading."""

    title: str
    figures: tuple[Figure, ...]


Values = Sequence[float] | npt.NDArray[np.float64]

_OF: Final[Mapping[str, Callable[..., Any]]] = {
    "mean": np.mean,
    "avg": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
    "std": np.std,
}


def linear(values: Values, percent: float) -> float | None:
    """Return a percentile, linear between the two nearest values, as `numpy.percentile` does; None without values."""
    return float(np.percentile(values, percent)) if len(values) else None


def statistic(values: Values, name: str) -> float | None:
    """Return `mean`, `avg`, `median`, `min`, `max`, `std` (of a population) or a percentile such as `p99`."""
    if not len(values):
        return None
    if name[0] == "p" and name[1:].isdigit():
        return linear(values, float(name[1:]))
    return float(_OF[name](values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """Values with weights; a quantile is the first value at which the summed weights reach the share (nearest rank)."""

    values: Values
    weights: Values

    def mean(self) -> float | None:
        """Return the weighted mean."""
        return float(np.average(self.values, weights=self.weights)) if self._any else None

    def quantile(self, share: float) -> float | None:
        """Return the first value at which the summed weights reach this share of all weights."""
        if not self._any:
            return None
        order = np.argsort(self.values)
        reached = np.cumsum(np.asarray(self.weights)[order]) / np.sum(self.weights)
        index = min(int(np.searchsorted(reached, share, side="left")), len(order) - 1)
        return float(np.asarray(self.values)[order][index])

    @property
    def _any(self) -> bool:
        return len(self.values) > 0 and float(np.sum(self.weights)) > 0


def ratio(part: float | None, of: float | None) -> float | None:
    """Return part / of; None if one is unknown or `of` is 0."""
    return None if part is None or not of else part / of


def gaps_s(stamps_ns: Sequence[StampArray]) -> npt.NDArray[np.float64]:
    """Return the gaps between neighbouring stamps of all arrays, in seconds."""
    return np.concatenate([np.diff(each) for each in stamps_ns]) / NS_PER_S if stamps_ns else np.empty(0)


_SLACK_S: Final = 0.001
"""The window's start and a request's come from two readings of the wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer, and the start of its request by the wall clock, which all processes of a run share."""

    record: RequestRecord
    start_unix_s: float

    def since_start_s(self, moment_ns: int) -> float:
        """Return a reading of the process's clock in seconds after the request's start."""
        return (int(moment_ns) - self.record.started_ns) / NS_PER_S

    @property
    def first_text_s(self) -> float:
        """From the start to the first chunk with text."""
        return self.since_start_s(self.record.chunk_ns[0])

    @property
    def first_answer_s(self) -> float | None:
        """From the start to the first chunk with text that is not reasoning; None where there is none."""
        return self.record.ttfa_s

    @property
    def last_text_s(self) -> float:
        """From the start to the last chunk with text."""
        return self.since_start_s(self.record.chunk_ns[-1])

    @property
    def done_s(self) -> float:
        """From the start to the last byte of the answer."""
        return self.record.e2e_s

    @property
    def all_chunks_ns(self) -> StampArray:
        """Arrivals of all chunks with choices, with or without text; only of those with text if no others are known."""
        textless_ns = self.record.textless_ns
        return self.record.chunk_ns if textless_ns is None else np.sort(np.append(self.record.chunk_ns, textless_ns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The requests of a run's window: complete answers with text, and the number of failures."""

    answers: tuple[Answer, ...]
    failed: int = 0
    users: int | None = None
    rate_per_s: float | None = None
    slo_s: dict[str, float]
    """The limits of `[slo]` by their keys, `ttft_s`, `tpot_s`, `e2e_s`."""
    notes: tuple[str, ...] = ()
    """What limits a comparison of these records with the tool's."""

    @property
    def starts_s(self) -> list[float]:
        """The start of each answer's request, by the wall clock."""
        return [answer.start_unix_s for answer in self.answers]

    def duration_s(self) -> float | None:
        """Return the time from the first request's start to the last answer's end; None without answers."""
        if not self.answers:
            return None
        return max(each.start_unix_s + each.done_s for each in self.answers) - min(self.starts_s)

    def prompt_tokens(self) -> int | None:
        """Return the sum of prompt tokens; None if the engine did not count those of every answer."""
        counts = [each.record.prompt_tokens for each in self.answers]
        return None if not counts or None in counts else sum(count or 0 for count in counts)

    def output_tokens(self) -> int | None:
        """Return the sum of output tokens; None if those of an answer are unknown."""
        counts = [each.record.output_tokens for each in self.answers]
        return None if not counts or None in counts else sum(count or 0 for count in counts)


def read_sample(folder: RunFolder) -> Sample:
    """Return the sample of a finished run; RunFolderError if the folder has none, or no requests."""
    summary, scenario = folder.summary(), folder.manifest().scenario
    load = scenario.load if summary.edited is None else summary.load  # that of the phase that its figures are of
    window = _window(summary, timed=load.ends_after_s is not None or summary.edited is not None)
    answers: list[Answer] = []
    tally = dict.fromkeys(("outside", "censored", "failed", "without_text", "without_gaps", "no_textless"), 0)
    lines = 0
    for line in folder.requests():
        lines += 1
        record = record_of(line)
        if window is not None and not window[0] <= line["time_s"] <= window[1]:
            tally["outside"] += 1
        elif record.outcome is Outcome.CENSORED:
            tally["censored"] += 1
        elif not record.ok:
            tally["failed"] += 1
        elif not len(record.chunk_ns):
            tally["without_gaps" if line["chunks"] else "without_text"] += 1
        else:
            tally["no_textless"] += record.textless_ns is None
            answers.append(Answer(record=record, start_unix_s=line["time_s"]))
    if not lines:
        raise RunFolderError(f"{folder.path}: no requests*.jsonl with a request in it")
    return Sample(
        answers=tuple(answers),
        failed=tally["failed"],
        users=load.constant_users,
        rate_per_s=load.constant_rate_per_s,
        slo_s=scenario.slo.model_dump(exclude_none=True),
        notes=_notes(tally, unknown_window=window is None and load.window_warmup_s > 0),
    )


def _window(summary: Summary, *, timed: bool) -> tuple[float, float] | None:
    """Return the start and end between which a request must start; a counted run's window ends with its last answer."""
    start_s, length_s = summary.window_started_unix_s, summary.window_s
    if start_s is None or length_s is None:
        return None
    return start_s - _SLACK_S, start_s + length_s + _SLACK_S if timed else float("inf")


def _notes(tally: dict[str, int], *, unknown_window: bool) -> tuple[str, ...]:
    notes = {
        "outside": "requests that started outside the window (warm-up, drain) are left out",
        "censored": "requests cut by the end of the run are left out: the tools let theirs finish",
        "without_text": "answers without a chunk of text are left out",
        "without_gaps": "answers are left out, since the run recorded no chunk times (run.record_chunks = false)",
        "no_textless": "answers have no times of chunks without text: the first text is used as the first chunk",
    }
    said = [f"{tally[name]} {text}" for name, text in notes.items() if tally[name]]
    return (*said, *(["the folder does not say when its warm-up ended: it is counted"] if unknown_window else []))
