"""The rules by which every tool is judged: does it say what went wrong, and are its figures those of the log?"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.tools.faulty_engine import WHOLE, Answer, Served
from benchmarks.tools.load_client import Reported
from llmload.units import NS_PER_S

LIMIT: Final = 0.02
"""A figure is right within this part of the log's."""
LIST_ITEMS: Final = 3
"""How many items of each list in a report are read; the lists hold a value for each request."""
TTFT_LIMIT_S: Final = 0.002
"""What may lie between a client's start and the engine's arrival, opening a connection included."""
ENOUGH_FOR_P99: Final = 100
"""Of fewer values a p99 is the greatest, so one hiccup of the machine would be taken for a tool's fault."""
QUOTE: Final = 240
"""Characters of a quoted line."""
FIGURES: Final[Mapping[str, Callable[[Reported], float | None]]] = {
    "completed": lambda reported: reported.completed,
    "failed": lambda reported: reported.failed,
    "output_tokens_per_s": lambda reported: reported.output_tokens_per_s,
    "ttft_p50_s": lambda reported: reported.ttft_p50_s,
    "ttft_p99_s": lambda reported: reported.ttft_p99_s,
    "tpot_p50_s": lambda reported: reported.tpot_p50_s,
    "tpot_p99_s": lambda reported: reported.tpot_p99_s,
    "itl_p50_s": lambda reported: reported.itl_p50_s,
    "itl_p99_s": lambda reported: reported.itl_p99_s,
}
_NUMBER: Final = re.compile(r"\d+(?:[.,:]\d+)*")
_DECORATION: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\u2500-\u259f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A line that names a fault, and where it is: `output`, or a file of the report."""

    where: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure as reported, and the values between which the log has it; none where there was nothing to measure."""

    name: str
    reported: float
    true: tuple[float, ...]

    @property
    def right(self) -> bool:
        """Whether it lies among the true values, within 2 %; TTFT within 2 ms at least."""
        if not self.true:
            return False
        low, high = min(self.true), max(self.true)
        least = TTFT_LIMIT_S if self.name.startswith("ttft") else 0.0
        return low - max(least, LIMIT * low) <= self.reported <= high + max(least, LIMIT * high)


def lines_of(folder: Path, output: Path, patterns: Iterable[str]) -> Iterator[Quote]:
    """Yield every line that a tool printed, then those of its report; of JSON, a line for each value."""
    for line in output.read_text(encoding="utf-8", errors="replace").splitlines():
        if text := plain(line):
            yield Quote(where="output", text=text)
    for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
        for line in _report_lines(file):
            if text := plain(line):
                yield Quote(where=file.name, text=text)


def _report_lines(file: Path) -> Iterator[str]:
    content = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix not in (".json", ".jsonl"):
        yield from content.splitlines()
        return
    for part in [content] if file.suffix == ".json" else content.splitlines():
        try:
            yield from _flat(json.loads(part), "")
        except ValueError:
            yield part[:QUOTE]


def _flat(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for inner in value[:LIST_ITEMS]:
            yield from _flat(inner, path)
    elif value not in (None, ""):
        yield f"{path}: {value}"


def plain(line: str) -> str:
    """Return the line without colours and frames, and with single spaces."""
    return " ".join(_DECORATION.sub(" ", line).split())


def said(lines: Iterable[Quote], control: Iterable[Quote], pattern: re.Pattern[str]) -> Quote | None:
    """
    Return the first line that names the fault; None if none does.

    A line that the run without a fault has too, but for numbers other than 0, does not count.
    """
    usual = {_shape(line.text) for line in control}
    for line in lines:
        found = pattern.search(line.text)
        if found and _shape(line.text) not in usual:
            begin = max(0, min(found.start() - QUOTE // 4, len(line.text) - QUOTE))
            return Quote(where=line.where, text=line.text[begin : begin + QUOTE])
    return None


def _shape(line: str) -> str:
    return _NUMBER.sub(lambda number: "#" if number[0].strip("0.,:") else "0", line)


def counted(served: Sequence[Served], requests: int) -> list[Served]:
    """Return the requests that a tool counts: a tool that sends more than requested counts the first to end."""
    return sorted(served, key=lambda request: request.done_ns or math.inf)[:requests]


def figures(served: Sequence[Served], reported: Reported, wanted: int) -> list[Figure]:
    """Return each figure that the tool gives, beside what the engine's log has; `wanted` requests were requested."""
    requests = counted(served, max(wanted, reported.completed + reported.failed))  # it may go on until it looks
    good = [request for request in requests if request.answer in WHOLE]
    bad = [request for request in requests if request.answer not in WHOLE and request.answer is not Answer.GONE]
    # A tool that took faulty answers for good ones has them in its latencies too; its count is wrong, not those.
    measured = [request for request in requests if request.writes_ns and request.answer is not Answer.GONE]
    taken = measured if reported.completed > len(good) else good
    tpot, itl = _tpot_s(taken), _gaps_s(taken)
    true: dict[str, tuple[float, ...]] = {
        "completed": (len(good),),
        "failed": (len(bad),),
        "output_tokens_per_s": _rates(requests, good),
        **{f"ttft_{name}_s": _ttft_quantile(taken, q) for name, q in _QUANTILES.items()},
        **{f"tpot_{name}_s": _quantile(tpot, q) for name, q in _QUANTILES.items()},
        **{f"itl_{name}_s": _quantile(itl, q) for name, q in _QUANTILES.items()},
    }
    few = {"ttft_p99_s", "tpot_p99_s"} if len(taken) < ENOUGH_FOR_P99 else set()
    given = ((name, figure(reported)) for name, figure in FIGURES.items() if name not in few)
    known = ((name, value) for name, value in given if value is not None and not math.isnan(value))
    return [Figure(name=name, reported=value, true=true[name]) for name, value in known]


_QUANTILES: Final = {"p50": 0.50, "p99": 0.99}


def _ttft_quantile(requests: Iterable[Served], q: float) -> tuple[float, ...]:
    """Return a quantile of the time to first token from the earliest and from the latest arrival that may be."""
    answered = [request for request in requests if request.writes_ns]
    least, most = (
        [(request.writes_ns[0] - came_ns(request)) / NS_PER_S for request in answered] for came_ns in _ARRIVALS
    )
    return _quantile(least, q)[:1] + _quantile(most, q)[1:]


_ARRIVALS: Final[tuple[Callable[[Served], int], ...]] = (
    lambda request: request.received_ns,
    lambda request: request.looked_ns,
)


def _tpot_s(requests: Iterable[Served]) -> list[float]:
    many = (request.writes_ns for request in requests if len(request.writes_ns) > 1)
    return [(writes[-1] - writes[0]) / (len(writes) - 1) / NS_PER_S for writes in many]


def _gaps_s(requests: Iterable[Served]) -> list[float]:
    return [
        (after - before) / NS_PER_S
        for request in requests
        for before, after in zip(request.writes_ns, request.writes_ns[1:], strict=False)
    ]


def _quantile(values: Sequence[float], q: float) -> tuple[float, ...]:
    """Return a quantile by the two methods that bound all others."""
    if not values:
        return ()
    lower, higher = (float(np.quantile(values, q, method=method)) for method in _METHODS)
    return lower, higher


_METHODS: Final[tuple[Any, Any]] = ("lower", "higher")


def _rates(requests: Sequence[Served], good: Sequence[Served]) -> tuple[float, ...]:
    """Return the rate of the good answers' tokens, and that of all tokens that were written."""
    written = [request for request in requests if request.writes_ns]
    if not written:
        return (0.0,)
    first_ns = min(request.received_ns for request in requests)
    last_ns = max(max(request.done_ns, request.writes_ns[-1]) for request in written)
    return tuple(
        sum(len(request.writes_ns) for request in each) * NS_PER_S / (last_ns - first_ns) for each in (good, written)
    )


def read(figures_of: Callable[[], Reported]) -> Reported | None:
    """Return a tool's figures; None where it left no report, or one without them."""
    try:
        return figures_of()
    except (OSError, LookupError, TypeError, ValueError, StopIteration):
        return None
