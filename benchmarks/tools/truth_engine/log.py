"""The engine's log: when each request came, and when each chunk was written."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from llmload.units import NS_PER_S

NEARLY_ALL: Final = 0.95
"""A run is ramped up once this fraction of the maximum number of streams is active."""
Nanoseconds = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]

HEAD: Final = np.dtype(
    [
        ("magic", "S4"),
        ("flags", "<u4"),
        ("chunks", "<u4"),
        ("text_bytes", "<u4"),
        ("received_ns", "<i8"),
        ("first_due_ns", "<i8"),
        ("done_ns", "<i8"),
        ("worst_late_ns", "<i8"),
        ("request_id", "S96"),
    ]
)
COMPLETE, STREAMED, KERNEL_STAMPED = 1, 2, 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrueAnswer:
    """One answer as it was really written; times are CLOCK_MONOTONIC."""

    request_id: str
    complete: bool
    kernel_stamped: bool
    """Whether `received_ns` is the kernel's stamp; else it is the engine's clock, which may be late."""
    received_ns: int
    first_due_ns: int
    done_ns: int
    worst_late_ns: int
    """How late the latest of its chunks was written."""
    writes_ns: Nanoseconds

    @property
    def ttft_s(self) -> float:
        """From the arrival of the request to the write of its first content chunk."""
        return (int(self.writes_ns[0]) - self.received_ns) / NS_PER_S


class TruthLog:
    """Every answer of an engine, in the order in which they ended."""

    def __init__(self, answers: list[TrueAnswer]) -> None:
        self.answers = answers

    @classmethod
    def read(cls, file: Path) -> "TruthLog":
        """Return the log in a file; ValueError if it is not one."""
        return cls(list(_answers(file.read_bytes())))

    def of(self, request_ids: Collection[str] | None) -> "TruthLog":
        """Return the log of these requests, of all if None."""
        if request_ids is None:
            return self
        return TruthLog([answer for answer in self.answers if answer.request_id in request_ids])

    @cached_property
    def complete(self) -> list[TrueAnswer]:
        """The answers that were completed."""
        return [answer for answer in self.answers if answer.complete]

    @cached_property
    def ttft_s(self) -> Seconds:
        """Time to first token of each complete answer."""
        return np.array([answer.ttft_s for answer in self.complete])

    @cached_property
    def gaps_s(self) -> Seconds:
        """Every gap between neighbouring content chunks of complete answers."""
        return np.concatenate([np.diff(answer.writes_ns) / NS_PER_S for answer in self.complete])

    @cached_property
    def worst_late_s(self) -> Seconds:
        """Greatest lateness of a chunk of each complete answer: caused by the engine, not by the client."""
        return np.array([answer.worst_late_ns / NS_PER_S for answer in self.complete])

    @property
    def chunks(self) -> int:
        """How many content chunks were written, in complete answers and others."""
        return sum(len(answer.writes_ns) for answer in self.answers)

    def steady_chunks_per_s(self) -> float:
        """Return the rate of writes without ramp and tail: from nearly all streams active to the last request."""
        received_ns = np.array([answer.received_ns for answer in self.answers])
        done_ns = np.array([answer.done_ns for answer in self.answers])
        moments_ns = np.concatenate([received_ns, done_ns])
        order = np.argsort(moments_ns)
        at_work = np.cumsum(np.repeat([1, -1], len(received_ns))[order])
        first_ns = int(moments_ns[order][np.argmax(at_work >= NEARLY_ALL * at_work.max())])
        last_ns = int(received_ns.max())
        if first_ns >= last_ns:
            raise ValueError("no request came once nearly all streams were active: there is no steady part")
        writes_ns = np.concatenate([answer.writes_ns for answer in self.answers])
        inside = np.count_nonzero((writes_ns >= first_ns) & (writes_ns <= last_ns))
        return float(inside) * NS_PER_S / (last_ns - first_ns)


def _answers(content: bytes) -> Iterator[TrueAnswer]:
    at = 0
    while at < len(content):
        head = np.frombuffer(content, dtype=HEAD, count=1, offset=at)[0]
        if head["magic"] != b"TRTH":
            raise ValueError(f"not a truth log: no answer starts at byte {at}")
        at += HEAD.itemsize
        chunks, flags = int(head["chunks"]), int(head["flags"])
        yield TrueAnswer(
            request_id=head["request_id"].decode("latin-1"),
            complete=bool(flags & COMPLETE),
            kernel_stamped=bool(flags & KERNEL_STAMPED),
            received_ns=int(head["received_ns"]),
            first_due_ns=int(head["first_due_ns"]),
            done_ns=int(head["done_ns"]),
            worst_late_ns=int(head["worst_late_ns"]),
            writes_ns=np.frombuffer(content, dtype="<i8", count=chunks, offset=at),
        )
        at += 8 * chunks
