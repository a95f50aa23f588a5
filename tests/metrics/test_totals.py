"""Totals: both ways of counting agree, parts merge to the whole, and a message loses nothing; for every field."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from llmload.metrics.failures import Failures
from llmload.metrics.lines import columns_of
from llmload.metrics.requests import RequestTable, line_writer
from llmload.metrics.totals import COARSEST, Distributions, Exemplars, RunTotals
from llmload.record import (
    ENGINE_WRITES,
    RESET_BY,
    ErrorType,
    Outcome,
    ReasoningSource,
    RequestError,
    RequestRecord,
    Slo,
    StampSource,
    TokenSource,
    Window,
    stamps_of,
)
from llmload.units import NS_PER_S
from tests import recorded

START_NS = 10**12
SLO = Slo(ttft_s=0.5, tpot_s=0.2, e2e_s=3.0)
LIVE_ONLY = {"exemplars"}
NAMES = [each.name for each in fields(RunTotals)]

counts = st.none() | st.integers(0, 30)


errors = st.builds(
    RequestError,
    type=st.sampled_from(ErrorType),
    message=st.sampled_from(["", "HTTP 503", "HTTP 503: busy for 3 s", "HTTP 503: busy for 4 s", "out of memory"]),
    http_status=st.sampled_from([None, 503]),
)


@st.composite
def record(draw: st.DrawFn) -> RequestRecord:
    started_ns = START_NS + draw(st.integers(0, 10 * NS_PER_S))
    gaps_ns = draw(st.lists(st.just(0) | st.integers(1, NS_PER_S), max_size=5))
    chunk_ns = stamps_of(started_ns, gaps_ns)
    outcome = draw(st.sampled_from(Outcome))
    error = draw(errors) if outcome is Outcome.FAILED else None
    return RequestRecord(
        request_id=str(draw(st.integers(0, 10**6))),
        prompt_id="p",
        started_ns=started_ns,
        done_ns=(int(chunk_ns[-1]) if gaps_ns else started_ns) + draw(st.integers(1, NS_PER_S)),
        outcome=outcome,
        scheduled_ns=started_ns - draw(st.integers(0, NS_PER_S)) if draw(st.booleans()) else None,
        chunk_ns=chunk_ns,
        asked_prompt_tokens=draw(st.none() | st.integers(1, 30)),
        asked_output_tokens=draw(st.none() | st.integers(1, 30)),
        prompt_tokens=draw(counts),
        output_tokens=draw(counts),
        cached_tokens=draw(counts),
        reasoning_tokens=draw(counts),
        engine_queue_s=draw(st.none() | st.floats(0, 1)),
        engine_prefill_s=draw(st.none() | st.floats(0, 1)),
        engine_decode_s=draw(st.none() | st.floats(0, 1)),
        drafts=draw(counts),
        draft_tokens=draw(counts),
        accepted_tokens=draw(counts),
        reasoning_source=draw(st.none() | st.sampled_from(ReasoningSource)),
        reasoning_chunks=(thought := draw(st.integers(0, len(gaps_ns)))),
        first_answer_ns=int(chunk_ns[thought]) if 0 < thought < len(gaps_ns) else None,
        token_source=draw(st.sampled_from(TokenSource)),
        stamp_source=draw(st.sampled_from(StampSource)),
        wire_sent_ns=started_ns + draw(st.integers(0, NS_PER_S)) if draw(st.booleans()) else None,
        rtt_s=draw(st.none() | st.floats(0, 1)),
        retransmissions=draw(counts),
        late_segments=draw(counts),
        engine_closed_windows=draw(counts),
        client_closed_windows=draw(counts),
        missed_bytes=draw(counts),
        engine_writes=draw(st.sampled_from([None, *sorted(ENGINE_WRITES)])),
        reset_by=draw(st.sampled_from([None, *sorted(RESET_BY)])),
        finish_reason=draw(st.sampled_from([None, "stop", "length"])),
        error=error,
        reconnects=draw(st.integers(0, 2)),
        retries=draw(st.integers(0, 2)),
    )


records = st.lists(record(), max_size=12)
windows = st.sampled_from(
    [
        Window(start_ns=None),
        Window(start_ns=START_NS),
        Window(start_ns=START_NS + 2 * NS_PER_S, end_ns=START_NS + 7 * NS_PER_S),
    ]
)


def one_by_one(of: Sequence[RequestRecord], window: Window) -> RunTotals:
    totals = RunTotals()
    for each in of:
        totals.started += 1
        totals.add(each, window=window, slo=SLO, run_start_ns=START_NS)
    return totals


def as_a_table(of: Sequence[RequestRecord], window: Window) -> RunTotals:
    write, totals = line_writer(with_chunks=True), RunTotals()
    start_ns, end_ns = (None if end is None else end - START_NS for end in (window.start_ns, window.end_ns))
    if of:
        texts = [orjson.dumps(write(each, 0), option=orjson.OPT_SERIALIZE_NUMPY) for each in of]
        table = RequestTable.of_columns(columns_of([orjson.loads(text) for text in texts]), START_NS / NS_PER_S)
        totals.add_table(table, window=Window(start_ns=start_ns, end_ns=end_ns), slo=SLO)
    return totals


def plain(value: Any) -> Any:
    if isinstance(value, Distributions):
        return {name: each.to_message() for name, each in value.items() if each.seen or each.infinite}
    if isinstance(value, Exemplars):
        return {name: sorted((each.value, each.request_id) for each in few) for name, few in value.items()}
    if isinstance(value, Failures):
        return value.most_common()
    return dict(value) if isinstance(value, Counter) else value


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, numbers to within rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)
    return bool(one == other)


def differing(one: RunTotals, other: RunTotals, *besides: str) -> list[str]:
    return [
        name
        for name in NAMES
        if name not in besides and not same(plain(getattr(one, name)), plain(getattr(other, name)))
    ]


@given(records, windows)
def test_a_table_counts_what_its_records_count(of: list[RequestRecord], window: Window) -> None:
    assert differing(one_by_one(of, window), as_a_table(of, window), *LIVE_ONLY) == []


@given(st.lists(records, max_size=4), windows)
def test_the_totals_of_workers_merge_to_those_of_all_requests(parts: list[list[RequestRecord]], window: Window) -> None:
    whole = one_by_one([each for part in parts for each in part], window)

    merged = RunTotals()
    merged.merge(*(one_by_one(part, window) for part in parts))

    assert differing(whole, merged, *LIVE_ONLY) == []
    for name, few in merged.exemplars.items():
        assert few[0].value == whole.all_answers(name).max_value


@given(records, windows)
def test_a_message_has_every_field(of: list[RequestRecord], window: Window) -> None:
    totals = one_by_one(of, window)
    totals.dropped, totals.reused_prompts = 3, 4

    message = totals.to_message()

    assert set(message) == set(NAMES)
    assert differing(totals, RunTotals.from_message(message)) == []


@given(records, windows, st.integers(0, COARSEST))
def test_a_coarse_message_changes_nothing_but_the_distributions(
    of: list[RequestRecord], window: Window, coarseness: int
) -> None:
    totals = one_by_one(of, window)

    coarse = RunTotals.from_message(totals.to_message(coarseness=coarseness))

    assert differing(totals, coarse, "distributions", "out_of_window", "failures") == []
    for name, each in totals.distributions.items():
        there = coarse.distributions[name]
        assert (there.count, there.infinite, there.max_value) == (each.count, each.infinite, each.max_value)


def test_no_field_is_left_out_of_these_tests() -> None:
    """A field that no request changes is forgotten in both ways of counting, or belongs to the session."""
    totals = one_by_one(recorded.records(600, open_loop=True), Window(start_ns=time.monotonic_ns()))

    unchanged = set(NAMES) - set(differing(totals, RunTotals()))
    assert unchanged == {"dropped", "reused_prompts", "lost_lines", "dropped_segments"}
