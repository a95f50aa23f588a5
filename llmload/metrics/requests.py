"""
A request's fields, listed once, and many requests as columns.

`FIELDS` is what a line of `requests*.jsonl` says: the writer, the readers, CSV, Parquet, the DataFrame and
docs/requests.md follow it. A new field is an attribute of `RequestRecord` and a row of that table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from itertools import chain
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from llmload.record import (
    NO_CHUNKS,
    ErrorType,
    Outcome,
    ReasoningSource,
    RequestError,
    RequestRecord,
    StampSource,
    TokenSource,
    stamps_of,
)
from llmload.units import NS_PER_S, Markdown, code, markdown_table

# The distributions over requests by name, and the quantiles that are shown of them.

FIELD_OF: Final[Mapping[str, str | None]] = {
    "ttft_s": "ttft_s",
    "tpot_s": "tpot_s",
    "itl_s": None,  # a value a gap between chunks
    "e2e_s": "e2e_s",
    "ttfa_s": "ttfa_s",
    "thinking_s": "thinking_s",
    "answer_tpot_s": "answer_tpot_s",
    "engine_queue_s": "engine_queue_s",
    "engine_prefill_s": "engine_prefill_s",
    "ttft_rest_s": "ttft_rest_s",
    "engine_decode_s": "engine_decode_s",
    "ttft_from_schedule_s": "ttft_from_schedule_s",
    "e2e_from_schedule_s": "e2e_from_schedule_s",
    "schedule_lag_s": "schedule_lag_s",
    "ttft_wire_s": "ttft_wire_s",
    "departure_delay_s": "departure_delay_s",
    "rtt_s": "rtt_s",
    "request_output_tokens_per_s": "output_tokens_per_s",
    "request_prompt_tokens": "prompt_tokens",
    "request_output_tokens": "output_tokens",
}
"""Each distribution over requests, and the field of a request that it is of."""
SELDOM: Final = ("thinking_s", "answer_tpot_s", "engine_queue_s", "engine_prefill_s", "ttft_rest_s", "engine_decode_s")
"""Those that only answers with reasoning have, or an engine's own account of its times."""
REQUEST_DISTRIBUTIONS: Final = tuple(FIELD_OF)
DISTRIBUTIONS: Final = (*REQUEST_DISTRIBUTIONS, "event_loop_lag_s")
LATENCIES: Final = ("ttft_s", "itl_s", "tpot_s", "e2e_s")
"""The distributions that are watched while a run sends."""
WITH_FAILURES: Final = ("ttft_s", "e2e_s")
"""The distributions in which a failed request counts as infinite."""
WITH_EXEMPLARS: Final = ("ttft_s", "e2e_s")
QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
LIVE_QUANTILES: Final = {name: QUANTILES[name] for name in ("p50", "p95", "p99")}
"""The quantiles that are shown while a run sends."""


Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Kind(Enum):
    """What a field's values are, and so its type in each table."""

    TEXT = "text"
    CATEGORY = "category"  # one of a few texts
    UNIX = "unix time"
    FLOAT = "float"
    COUNT = "int"
    CLOCK = "clock"  # CLOCK_MONOTONIC of the machine that sent the request
    FLAG = "bool"
    LIST = "[int]"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request; unknown values are null in a line and empty in a table."""

    name: str
    """The column; also the line's key and the record's attribute, unless `key` says otherwise."""
    kind: Kind
    unit: str
    meaning: str
    key: str = ""
    """The line's key and the record's attribute where the column is one member of it, such as `error`."""
    member: str = ""

    @property
    def line_key(self) -> str:
        """The line's key."""
        return self.key or self.name


def _of_error(member: str, kind: Kind, unit: str, meaning: str) -> Field:
    return Field(f"error_{member}", kind, unit, meaning, key="error", member=member)


FIELDS: Final = (
    Field("request_id", Kind.TEXT, "", "the request, unique over all runs"),
    Field("prompt_id", Kind.TEXT, "", "which prompt was sent"),
    Field("name", Kind.CATEGORY, "", "the request's name in tables by name; null where requests have none"),
    Field("stage", Kind.CATEGORY, "", "the stage, step or phase it started in; null before the first edit of a load"),
    Field("outcome", Kind.CATEGORY, "", "completed, failed or censored (cut by the run's end)"),
    Field("time_s", Kind.UNIX, "s", "start, unix time"),
    Field("ttft_s", Kind.FLOAT, "s", "first chunk with text (content, reasoning, a refusal, a tool call) - start"),
    Field("ttfa_s", Kind.FLOAT, "s", "first chunk of the answer - start; `ttft_s` where no chunk is reasoning"),
    Field("thinking_s", Kind.FLOAT, "s", "first chunk of the answer - first chunk with text; only with reasoning"),
    Field("answer_tpot_s", Kind.FLOAT, "s", "`tpot_s` of the answer alone, without reasoning; only with reasoning"),
    Field("engine_queue_s", Kind.FLOAT, "s", "the part of TTFT in the engine's queue, by its own account"),
    Field("engine_prefill_s", Kind.FLOAT, "s", "the part of TTFT in which it computed the prompt, by its own account"),
    Field("ttft_rest_s", Kind.FLOAT, "s", "TTFT without these two: network, proxies, tokenising"),
    Field("engine_decode_s", Kind.FLOAT, "s", "first to last token, by the engine's own account"),
    Field("tpot_s", Kind.FLOAT, "s", "(last - first chunk with text) / (output tokens - 1); unknown below 2 tokens"),
    Field("e2e_s", Kind.FLOAT, "s", "last byte of the answer, or failure - start"),
    Field("output_tokens_per_s", Kind.FLOAT, "tokens/s", "output tokens / e2e latency"),
    Field("asked_prompt_tokens", Kind.COUNT, "tokens", "the prompt was to have; null where no length was requested"),
    Field("asked_output_tokens", Kind.COUNT, "tokens", "the answer was to have; null where no length was requested"),
    Field("prompt_tokens", Kind.COUNT, "tokens", "by the engine's count"),
    Field("output_tokens", Kind.COUNT, "tokens", "by `token_source`"),
    Field("cached_tokens", Kind.COUNT, "tokens", "prompt tokens that the engine took from its prefix cache"),
    Field("reasoning_tokens", Kind.COUNT, "tokens", "output tokens of reasoning, a part of `output_tokens`"),
    Field("reasoning_source", Kind.CATEGORY, "", "usage, chunk_usage, or chunks: estimated by the share of chunks"),
    Field("reasoning_chunks", Kind.COUNT, "chunks", "chunks with text that are reasoning"),
    Field("drafts", Kind.COUNT, "steps", "steps of speculative decoding, by the engine's own account of the request"),
    Field("draft_tokens", Kind.COUNT, "tokens", "tokens that were drafted in them"),
    Field("accepted_tokens", Kind.COUNT, "tokens", "those of them that the model took"),
    Field("token_source", Kind.CATEGORY, "", "how `output_tokens` were counted: see docs/answers.md"),
    Field("finish_reason", Kind.CATEGORY, "", "in the engine's word, `other` for an uncommon one"),
    Field("stamp_source", Kind.CATEGORY, "", "packet, kernel, user or none: who took the time stamps"),
    Field("chunks", Kind.COUNT, "chunks", "chunks with text"),
    Field("coalesced_chunks", Kind.COUNT, "chunks", "those that share a read, and so a stamp, with the one before"),
    Field("same_segment_chunks", Kind.COUNT, "chunks", "those that came in one TCP segment with the one before"),
    Field("ttft_wire_s", Kind.FLOAT, "s", "first chunk with text - departure of the request, by the packet ring"),
    Field(
        "departure_delay_s", Kind.FLOAT, "s", "departure of the request - start or `connected_ns`: the client's part"
    ),
    Field("rtt_s", Kind.FLOAT, "s", "departure of the request to its acknowledgement, or the same of the opening"),
    Field("retransmissions", Kind.COUNT, "segments", "TCP segments of request and answer that came twice"),
    Field("late_segments", Kind.COUNT, "segments", "those of the answer that came after later ones, which waited"),
    Field("engine_closed_windows", Kind.COUNT, "times", "the engine's host took no more bytes for a while"),
    Field(
        "client_closed_windows", Kind.COUNT, "times", "this host took no more bytes for a while: the client read late"
    ),
    Field("missed_bytes", Kind.COUNT, "bytes", "of the answer, whose segments the packet ring missed"),
    Field("reset_by", Kind.CATEGORY, "", "engine or client: who reset the connection, by the packet ring"),
    Field("engine_writes", Kind.CATEGORY, "", "at_once, or after_acknowledgement (Nagle's algorithm)"),
    Field("reconnects", Kind.COUNT, "times", "sent again since a kept-alive connection had gone"),
    Field("retries", Kind.COUNT, "times", "sent again by the scenario's `client.retries`"),
    _of_error("type", Kind.CATEGORY, "", "why it failed: a closed set"),
    _of_error("message", Kind.TEXT, "", "the same in the engine's or system's words"),
    _of_error("http_status", Kind.COUNT, "", "the status, where there was one"),
    _of_error("retry_after_s", Kind.FLOAT, "s", "the engine's Retry-After header"),
    Field("scheduled_ns", Kind.CLOCK, "ns", "when it was due, in an open loop"),
    Field("started_ns", Kind.CLOCK, "ns", "start"),
    Field("connected_ns", Kind.CLOCK, "ns", "a new connection was open; empty where one was reused"),
    Field("sent_ns", Kind.CLOCK, "ns", "the request was written"),
    Field("wire_sent_ns", Kind.CLOCK, "ns", "the request's last segment left, by the packet ring"),
    Field("first_answer_ns", Kind.CLOCK, "ns", "first chunk of the answer; only where some chunk is reasoning"),
    Field("done_ns", Kind.CLOCK, "ns", "last byte, or failure"),
    Field("chunk_gaps_ns", Kind.LIST, "ns", "start to first chunk, then chunk to chunk"),
    Field("textless_gaps_ns", Kind.LIST, "ns", "the same of chunks without text (the role, the finish)"),
    Field("chunk_tokens", Kind.LIST, "tokens", "tokens of each chunk, where the engine counts them"),
)
FIELD: Final = {each.name: each for each in FIELDS}
RUN_ID: Final = Field("run_id", Kind.TEXT, "", "the run; not in a line, since the folder says it")
COLUMNS: Final = (RUN_ID, *FIELDS)
"""The columns of a table of several runs."""
LINE_KEYS: Final = tuple(dict.fromkeys(each.line_key for each in FIELDS if each.kind is not Kind.LIST))
"""The keys of every line."""
LIST_KEYS: Final = tuple(each.line_key for each in FIELDS if each.kind is Kind.LIST)
"""Those of a run that records its chunks, besides."""

Line = dict[str, Any]


def compiled(parameters: str, *statements: str) -> Any:
    """
    Return the function of those statements, written out from a table as dataclasses write theirs.

    For the process that measures: a loop over the table with getattr takes 5 % more to make a line, and 4 us a request
    more to count it.
    """
    namespace: dict[str, Any] = {}
    exec(f"def function({parameters}):\n" + "\n".join(f"    {each}" for each in statements), namespace)  # noqa: S102 - our own text
    return namespace["function"]


def line_writer(*, with_chunks: bool) -> Callable[[RequestRecord, int], Line]:
    """Return the function that makes a line of a record; the second argument, in ns, makes its clock unix time."""
    values = {key: f"record.{key}" for key in (*LINE_KEYS, *(LIST_KEYS if with_chunks else ()))}
    values["time_s"] = f"(record.started_ns + unix_offset_ns) / {NS_PER_S}"
    items = ", ".join(f"{key!r}: {value}" for key, value in values.items())
    write: Callable[[RequestRecord, int], Line] = compiled("record, unix_offset_ns", f"return {{{items}}}")
    return write


def record_of(line: Mapping[str, Any]) -> RequestRecord:
    """Return the record that a line was written from; without its chunks where the run did not record them."""
    started_ns, gaps, textless = line["started_ns"], line.get("chunk_gaps_ns"), line.get("textless_gaps_ns")
    tokens = line.get("chunk_tokens")
    return RequestRecord(
        **{name: line[name] for name in _AS_WRITTEN},
        outcome=Outcome(line["outcome"]),
        token_source=TokenSource(line["token_source"]),
        reasoning_source=None if (source := line["reasoning_source"]) is None else ReasoningSource(source),
        stamp_source=StampSource(line["stamp_source"]),
        error=None if (error := line["error"]) is None else RequestError(**{**error, "type": ErrorType(error["type"])}),
        chunk_ns=stamps_of(started_ns, gaps) if gaps else NO_CHUNKS,
        chunk_tokens=None if tokens is None else np.array(tokens, dtype=np.int64),
        textless_ns=None if textless is None else stamps_of(started_ns, textless),
    )


_AS_WRITTEN: Final = tuple(
    name
    for name in (each.name for each in fields(RequestRecord))
    if name in LINE_KEYS and name not in {"outcome", "token_source", "reasoning_source", "stamp_source", "error"}
)

_NUMBERS: Final = tuple(each.name for each in FIELDS if each.kind in {Kind.FLOAT, Kind.COUNT} and not each.key)
_CATEGORIES: Final = tuple(each.name for each in FIELDS if each.kind is Kind.CATEGORY and not each.key)


@dataclass(slots=True)
class Columns:
    """The fields of many lines, each a sequence of that length; `llmload.metrics.lines` reads and checks them."""

    length: int
    values: dict[str, Sequence[Any]]
    _arrays: dict[str, Floats] = field(default_factory=dict)
    _joined: dict[str, Ints] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.length

    def array(self, name: str) -> Floats:
        """Return a column of numbers; None becomes NaN."""
        if name not in self._arrays:
            self._arrays[name] = np.array(self.values[name], np.float64)
        return self._arrays[name]

    def joined(self, name: str) -> Ints:
        """Return the lists of a column one after the other."""
        if name not in self._joined:
            lists = [each for each in self.values[name] if each]
            self._joined[name] = np.fromiter(chain.from_iterable(lists), np.int64, sum(map(len, lists)))
        return self._joined[name]


_NO_COLUMNS: Final = Columns(0, {each.name: () for each in FIELDS})


@dataclass(kw_only=True, eq=False)  # no slots: cached_property needs __dict__
class RequestTable:
    """
    Requests as columns of one length, each named as in `FIELDS`.

    Moments are nanoseconds since the run's start. `gaps_ns` has the gaps between chunks of all requests one after the
    other (start to first chunk, then chunk to chunk), `gaps` how many of them each request has: 0 without chunks.
    """

    started_ns: Ints
    done_ns: Ints
    numbers: dict[str, Floats]
    """NaN is unknown; besides the fields: properties of a record that are none."""
    categories: dict[str, list[str | None]]
    """Text by request, `error_type` and `error_message` among them."""
    gaps: Ints
    gaps_ns: Ints
    completed: Mask = field(init=False)
    failed: Mask = field(init=False)
    """A request that is neither was censored."""

    def __post_init__(self) -> None:
        outcome = self.categories["outcome"]
        self.completed = _are(outcome, Outcome.COMPLETED)
        self.failed = _are(outcome, Outcome.FAILED)

    def __len__(self) -> int:
        return len(self.started_ns)

    @cached_property
    def start_s(self) -> Floats:
        """Each request's start, in seconds since the run's."""
        return self.started_ns / NS_PER_S

    @cached_property
    def done_s(self) -> Floats:
        """Each request's end, in seconds since the run's start."""
        return self.done_ns / NS_PER_S

    @cached_property
    def gap_s(self) -> Floats:
        """`gaps_ns` in seconds."""
        return self.gaps_ns / NS_PER_S

    @cached_property
    def stamps_ns(self) -> Ints:
        """When each recorded chunk arrived, in the order of `gaps_ns`."""
        since = np.cumsum(self.gaps_ns)
        firsts = np.cumsum(self.gaps) - self.gaps
        before = np.concatenate([[0], since])[firsts]
        stamps_ns: Ints = since + np.repeat(self.started_ns - before, self.gaps)
        return stamps_ns

    @cached_property
    def owners(self) -> Ints:
        """The index of the request that each of `gaps_ns` belongs to."""
        return np.repeat(np.arange(len(self.gaps)), self.gaps)

    @cached_property
    def is_first_gap(self) -> Mask:
        """Which of `gaps_ns` end in a request's first chunk: its TTFT."""
        first = np.zeros(len(self.gaps_ns), dtype=np.bool_)
        first[(np.cumsum(self.gaps) - self.gaps)[self.gaps > 0]] = True
        return first

    @cached_property
    def stamped_by_packet(self) -> Mask:
        """Which requests have the packet ring's stamps: chunks with one stamp came together."""
        return _are(self.categories["stamp_source"], StampSource.PACKET)

    def where(self, which: Mask) -> Self:
        """Return only the requests for which the mask is true."""
        return self._taken(np.flatnonzero(which))

    def with_name(self, name: str) -> Self:
        """Return only the requests of that name."""
        return self.where(_are(self.categories["name"], name))

    def sorted_by_start(self) -> Self:
        """Return the requests in the order of their starts."""
        return self._taken(np.argsort(self.started_ns, kind="stable"))

    def _taken(self, indices: Ints) -> Self:
        listed, gaps = indices.tolist(), self.gaps[indices]
        begins = (np.cumsum(self.gaps) - self.gaps)[indices]
        within = np.arange(int(gaps.sum())) - np.repeat(np.cumsum(gaps) - gaps, gaps)
        return type(self)(
            started_ns=self.started_ns[indices],
            done_ns=self.done_ns[indices],
            numbers={name: values[indices] for name, values in self.numbers.items()},
            categories={name: [values[index] for index in listed] for name, values in self.categories.items()},
            gaps=gaps,
            gaps_ns=self.gaps_ns[np.repeat(begins, gaps) + within],
        )

    @classmethod
    def joined(cls, tables: Iterable[Self]) -> Self:
        """Return one table of several; of none, an empty one."""
        parts = [cls.of_columns(_NO_COLUMNS, 0.0), *tables]
        return cls(
            started_ns=np.concatenate([each.started_ns for each in parts]),
            done_ns=np.concatenate([each.done_ns for each in parts]),
            numbers={name: np.concatenate([each.numbers[name] for each in parts]) for name in parts[0].numbers},
            categories={
                name: list(chain.from_iterable(each.categories[name] for each in parts)) for name in parts[0].categories
            },
            gaps=np.concatenate([each.gaps for each in parts]),
            gaps_ns=np.concatenate([each.gaps_ns for each in parts]),
        )

    @classmethod
    def of_columns(cls, columns: Columns, origin_unix_s: float) -> Self:
        """Return the table of checked columns, in ns since `origin_unix_s`."""
        values = columns.values
        started, done = np.array(values["started_ns"], np.int64), np.array(values["done_ns"], np.int64)
        started_ns = np.rint((columns.array("time_s") - origin_unix_s) * NS_PER_S).astype(np.int64)
        numbers = {name: columns.array(name) for name in _NUMBERS}
        lag_s = (started - columns.array("scheduled_ns")) / NS_PER_S
        gaps = np.fromiter((len(each or ()) for each in values["chunk_gaps_ns"]), np.int64, len(columns))
        return cls(
            started_ns=started_ns,
            done_ns=started_ns + (done - started),
            numbers={
                **numbers,
                "schedule_lag_s": lag_s,
                "ttft_from_schedule_s": numbers["ttft_s"] + lag_s,
                "e2e_from_schedule_s": numbers["e2e_s"] + lag_s,
                "error_http_status": columns.array("error_http_status"),
                **_reasoning(numbers, answered=~np.isnan(columns.array("first_answer_ns"))),
            },
            categories={name: list(values[name]) for name in (*_CATEGORIES, "error_type", "error_message")},
            gaps=gaps,
            gaps_ns=columns.joined("chunk_gaps_ns"),
        )


def _reasoning(numbers: Mapping[str, Floats], *, answered: Mask) -> dict[str, Floats]:
    """Return as 1 or 0 what a record's properties of that name say, and which answers have any reasoning."""
    by_count, by_chunks = numbers["reasoning_tokens"] > 0, numbers["reasoning_chunks"] > 0
    flags = {
        "has_reasoning": by_count | by_chunks,
        "hides_reasoning": by_count & ~by_chunks & (numbers["chunks"] > 0),
        "only_reasoning": by_chunks & ~answered,
    }
    return {name: flag.astype(np.float64) for name, flag in flags.items()}


def _are(values: Sequence[str | None], wanted: str) -> Mask:
    return np.fromiter((value == wanted for value in values), np.bool_, len(values))


def fields_table(
    columns: Sequence[Field], heading: str = "type", type_of: Callable[[Field], str] = lambda column: column.kind.value
) -> str:
    """Return the columns as a Markdown table, as docs/requests.md and docs/notebook.md have it."""
    rows = [[code(each.name), Markdown(type_of(each)), each.unit, Markdown(each.meaning)] for each in columns]
    return markdown_table(["column", heading, "unit", "meaning"], rows) + "\n"
