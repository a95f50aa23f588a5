"""The requests of one run as arrays: what statistics over requests are computed from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from llmload.measure.record import NS_PER_S, Outcome

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_PACKED_AT: Final = 1_000_000
"""As many gaps are kept as Python's numbers, at four times the memory."""
_NUMBERS: Final = ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s", "output_tokens")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSample:
    """
    Every request of a run, in the order of their starts; nan is unknown.

    `started_s` and `done_s` are seconds since 1970, the window reaches from `opened_s` to `closed_s`. `gap_s` holds the
    gaps of all requests one after the other (start to first chunk, then chunk to chunk), `gaps` how many each has: 0
    where chunks were not kept.
    """

    started_s: Floats
    done_s: Floats
    completed: Flags
    failed: Flags
    numbers: Mapping[str, Floats]
    """`ttft_s`, `tpot_s`, `e2e_s`, `output_tokens_per_s` and `output_tokens` of each request."""
    gap_s: Floats
    gaps: Places
    opened_s: float
    closed_s: float

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]], *, opened_s: float | None, window_s: float | None) -> Self:
        """
        Return the sample that the lines of a run's request files are; `opened_s` None: the window opened first of all.

        A `window_s` of None is a run that judged nothing: its window is empty.
        """
        columns: dict[str, list[float]] = {name: [] for name in (*_NUMBERS, "time_s")}
        outcomes: list[str] = []
        gaps_ns: list[int] = []
        packed: list[Floats] = []
        gaps: list[int] = []
        for line in lines:
            outcomes.append(line["outcome"])
            for name, column in columns.items():
                value = line[name]
                column.append(np.nan if value is None else value)
            own = line.get("chunk_gaps_ns") or ()
            gaps_ns.extend(own)
            gaps.append(len(own))
            if len(gaps_ns) > _PACKED_AT:
                packed.append(np.array(gaps_ns, dtype=np.float64))
                gaps_ns.clear()
        packed.append(np.array(gaps_ns, dtype=np.float64))
        return cls._ordered(columns, outcomes, np.concatenate(packed), gaps, opened_s, window_s)

    @classmethod
    def _ordered(
        cls,
        columns: Mapping[str, list[float]],
        outcomes: list[str],
        gaps_ns: Floats,
        gaps: list[int],
        opened_s: float | None,
        window_s: float | None,
    ) -> Self:
        arrays = {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
        order = np.argsort(arrays["time_s"], kind="stable")
        outcome, lengths = np.array(outcomes, dtype=np.str_)[order], np.array(gaps, dtype=np.int64)
        started_s = arrays["time_s"][order]
        opened_s = (float(started_s[0]) if len(order) else 0.0) if opened_s is None else opened_s
        return cls(
            started_s=started_s,
            done_s=started_s + arrays["e2e_s"][order],
            completed=outcome == Outcome.COMPLETED.value,
            failed=outcome == Outcome.FAILED.value,
            numbers={name: arrays[name][order] for name in _NUMBERS},
            gap_s=gaps_ns[_regrouped(lengths, order)] / NS_PER_S,
            gaps=lengths[order],
            opened_s=opened_s,
            closed_s=opened_s + (window_s or 0.0),
        )

    @property
    def window_s(self) -> float:
        """How long the window is."""
        return self.closed_s - self.opened_s

    @cached_property
    def judged(self) -> Flags:
        """Which requests latencies speak of: complete answers whose request started in the window."""
        return self.completed & self.within(self.started_s)

    @cached_property
    def ended(self) -> Flags:
        """Which requests came to an answer or an error in the window."""
        return (self.completed | self.failed) & self.within(self.done_s)

    @cached_property
    def in_flight(self) -> float:
        """How many requests were on their way at a time, in the mean over the window."""
        if self.window_s <= 0:
            return 0.0
        busy_s = np.minimum(self.done_s, self.closed_s) - np.maximum(self.started_s, self.opened_s)
        return float(np.maximum(busy_s, 0.0).sum() / self.window_s)

    def within(self, moments_s: Floats) -> Flags:
        """Return which moments lie in the window."""
        return (moments_s >= self.opened_s) & (moments_s <= self.closed_s)

    @cached_property
    def arrivals(self) -> tuple[Floats, Floats]:
        """
        When output tokens arrived, and how many at each moment.

        An answer's tokens are spread evenly over its chunks; where chunks were not kept, they arrive with its end.
        """
        tokens = np.where(self.failed, 0.0, np.nan_to_num(self.numbers["output_tokens"]))
        chunked = self.gaps > 0
        owner = np.repeat(np.arange(len(self.gaps)), self.gaps)
        elapsed_s = np.cumsum(self.gap_s)
        before_s = np.concatenate([[0.0], elapsed_s])[np.cumsum(self.gaps) - self.gaps]
        at_s = self.started_s[owner] + elapsed_s - before_s[owner]
        share = (tokens / np.maximum(self.gaps, 1))[owner]
        return np.concatenate([at_s, self.done_s[~chunked]]), np.concatenate([share, tokens[~chunked]])

    @cached_property
    def inter_token(self) -> tuple[Floats, Places]:
        """Every gap between neighbouring chunks of judged requests, and the place of its request."""
        first = np.zeros(len(self.gap_s), dtype=np.bool_)
        first[(np.cumsum(self.gaps) - self.gaps)[self.gaps > 0]] = True
        owner = np.repeat(np.arange(len(self.gaps)), self.gaps)
        wanted = ~first & self.judged[owner]
        return np.maximum(self.gap_s[wanted], 0.0), owner[wanted]


def _regrouped(lengths: Places, order: Places) -> Places:
    """Return the places of values that lie in groups of the given lengths, group by group in another order."""
    begins = (np.cumsum(lengths) - lengths)[order]
    taken = lengths[order]
    offset = np.arange(int(taken.sum())) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.repeat(begins, taken) + offset
