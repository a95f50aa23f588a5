"""When each byte of a connection could be read, from segments that come late, early, twice or not at all."""

from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.client.packet_ring import RST, SYN, Column, Segments
from llmload.client.segments import Claims, ConnectionSegments

PORT = 40_000
ISN = 2**32 - 150
"""The first sequence number: numbers wrap within each of these tests."""


class Sent(NamedTuple):
    """A segment: offset of its first byte, its bytes, and when it came."""

    start: int
    length: int
    stamp_ns: int
    flags: int = 0
    window: int = 64
    sent: bool = False
    acknowledged: int = 0


def segments(*rows: Sent) -> Segments:
    return Segments(
        sent=np.array([row.sent for row in rows], np.bool_),
        sequence=np.array([(ISN + 1 + row.start) % 2**32 for row in rows], np.uint32),
        acknowledged=np.array([(ISN + 1 + row.acknowledged) % 2**32 for row in rows], np.uint32),
        length=np.array([row.length for row in rows], np.int32),
        flags=np.array([row.flags for row in rows], np.uint8),
        window=np.array([row.window for row in rows], np.uint16),
        stamp_ns=np.array([row.stamp_ns for row in rows], np.int64),
    )


def opened() -> ConnectionSegments:
    connection = ConnectionSegments()
    connection.take(segments(Sent(-1, 0, 1, SYN, sent=True), Sent(-1, 0, 2, SYN)))
    return connection


def stamps_of_bytes(connection: ConnectionSegments, upto: int, begin: int = 0) -> list[int]:
    """Return the stamp of each byte."""
    ends, stamps = connection.arrivals(upto)
    pieces = pairwise([begin, *ends.tolist()])
    return [int(stamp) for (first, end), stamp in zip(pieces, stamps, strict=True) for _ in range(first, end)]


def by_hand(rows: list[Sent], length: int) -> list[int]:
    """Return the same by the definition: a byte can be read when it and all before it have come."""
    first: dict[int, int] = {}
    for row in rows:
        for offset in range(row.start, row.start + row.length):
            first.setdefault(offset, row.stamp_ns)
    return list(accumulate((first[offset] for offset in range(length)), max))


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Sent], int]:
    """A stream cut into segments, of which some come twice, some cut otherwise the second time, some out of order."""
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=14))
    starts = [0, *accumulate(lengths)][:-1]
    cut = list(zip(starts, lengths, strict=True))
    again = draw(st.lists(st.sampled_from(cut), max_size=4))
    wide = [(start, min(length + draw(st.integers(0, 30)), sum(lengths) - start)) for start, length in again]
    order = draw(st.permutations(cut + wide)) if draw(st.booleans()) else cut + wide
    return [Sent(start, length, 100 + 7 * index) for index, (start, length) in enumerate(order)], sum(lengths)


@given(stream=arrivals(), batches=st.integers(1, 5))
def test_a_byte_is_stamped_when_all_before_it_had_come(stream: tuple[list[Sent], int], batches: int) -> None:
    rows, length = stream
    connection = opened()
    size = -(-len(rows) // batches)
    for begin in range(0, len(rows), size):
        connection.take(segments(*rows[begin : begin + size]))

    assert stamps_of_bytes(connection, length) == by_hand(rows, length)


def test_stamps_never_run_backwards() -> None:
    """Two processors may stamp neighbouring segments in the wrong order."""
    connection = opened()
    connection.take(segments(Sent(0, 5, 100), Sent(5, 5, 90)))
    connection.take(segments(Sent(10, 5, 80)))

    assert stamps_of_bytes(connection, 15) == [100] * 15


def test_a_segment_read_in_two_parts_stamps_both() -> None:
    connection = opened()
    connection.take(segments(Sent(0, 10, 100), Sent(10, 10, 200)))

    assert stamps_of_bytes(connection, 4) == [100] * 4
    assert stamps_of_bytes(connection, 12, begin=4) == [100] * 6 + [200] * 2
    assert stamps_of_bytes(connection, 20, begin=12) == [200] * 8


def test_bytes_that_the_ring_missed_have_no_stamp_and_those_behind_them_do() -> None:
    connection = opened()
    connection.take(segments(Sent(0, 10, 100), Sent(20, 10, 300)))

    ends, _ = connection.arrivals(20)
    assert ends.tolist() == [10], "the second segment was dropped"
    connection.skip(20)
    connection.take(segments(Sent(30, 10, 400)))

    assert stamps_of_bytes(connection, 40, begin=20) == [300] * 10 + [400] * 10


def test_without_the_beginning_nothing_is_stamped() -> None:
    """The first number is unknown, and to guess it could move every stamp."""
    connection = ConnectionSegments()
    connection.take(segments(Sent(0, 10, 100)))

    assert stamps_of_bytes(connection, 10) == []


def test_departure_round_trip_and_resets() -> None:
    connection = opened()
    connection.take(segments(Sent(0, 60, 1_000, sent=True)))
    connection.take(segments(Sent(60, 40, 2_000, sent=True), Sent(0, 0, 2_500, acknowledged=60)))
    connection.take(segments(Sent(60, 40, 3_000, sent=True), Sent(0, 7, 52_000, acknowledged=100, window=0)))

    facts = connection.facts()
    assert facts.wire_sent_ns == 2_000
    assert (facts.retransmissions, facts.engine_closed_windows, facts.client_closed_windows) == (1, 1, 0)
    assert facts.rtt_s == pytest.approx(1e-9), "that of the opening: an acknowledgement may wait for the answer"

    connection.begin_request()
    connection.take(segments(Sent(7, 0, 60_000, RST, window=0)))
    facts = connection.facts()
    assert (facts.wire_sent_ns, facts.retransmissions, facts.engine_closed_windows) == (None, 0, 0)
    assert facts.reset_by == "engine"


def test_a_side_that_closes_its_window_is_named_and_counted_once_a_time() -> None:
    connection = opened()

    closed = Sent(0, 0, 5_000, window=0, acknowledged=100)
    connection.take(segments(closed, closed._replace(stamp_ns=9_000), closed._replace(acknowledged=300)))
    connection.take(segments(closed._replace(sent=True), closed._replace(sent=True, stamp_ns=9_000)))

    facts = connection.facts()
    assert (facts.engine_closed_windows, facts.client_closed_windows) == (2, 1), "not once for each probe's answer"


def test_the_round_trip_is_the_acknowledgements_where_it_is_shorter_or_the_opening_was_not_seen() -> None:
    slow = ConnectionSegments()
    slow.take(segments(Sent(-1, 0, 0, SYN, sent=True), Sent(-1, 0, 900_000, SYN)))
    slow.take(segments(Sent(0, 10, 1_000_000, sent=True), Sent(0, 0, 1_200_000, acknowledged=10)))
    assert slow.facts().rtt_s == pytest.approx(200e-6)


def test_bytes_without_a_segment_are_counted() -> None:
    connection = opened()
    connection.take(segments(Sent(0, 50, 100)))
    connection.arrivals(80)

    connection.skip(80)

    assert connection.facts().missed_bytes == 30
    connection.begin_request()
    assert connection.facts().missed_bytes == 0


def test_each_connection_is_given_its_own_segments_in_order() -> None:
    claims = Claims()
    connections = {port: claims.claim(port) for port in (40_000, 40_001, 39_999)}
    for begin in (-1, 0, 100):
        rows = [Sent(-1, 0, 2, SYN)] if begin < 0 else [Sent(begin + step, 1, begin + step) for step in range(100)]
        ports = np.array([port for _ in rows for port in connections], np.uint16)
        claims.hand_out(ports, segments(*(row for row in rows for _ in connections)))

    for connection in connections.values():
        ends, stamps = connection.arrivals(200)
        assert ends.tolist() == list(range(1, 201))
        assert stamps[-1] == 199
    claims.hand_out(ports[:0], segments())


def ports_of(rows: Segments, port: int = PORT) -> Column:
    return np.full(len(rows.length), port, np.uint16)


def test_segments_of_a_connection_that_is_being_opened_wait_for_it() -> None:
    claims = Claims()
    early = segments(Sent(-1, 0, 1, SYN, sent=True), Sent(-1, 0, 2, SYN), Sent(0, 10, 100))
    claims.hand_out(ports_of(early), early)
    claims.hand_out(ports_of(early, 33_000), segments(*(Sent(0, 1, 1) for _ in range(3))))
    connection = claims.claim(PORT)
    connection.take(segments(Sent(10, 10, 200)))

    assert stamps_of_bytes(connection, 20) == [100] * 10 + [200] * 10


def test_a_port_that_is_used_again_has_only_its_new_segments() -> None:
    claims = Claims()
    first = claims.claim(PORT)
    first.take(segments(Sent(-1, 0, 2, SYN), Sent(0, 10, 100)))
    claims.release(PORT, first)
    second = claims.claim(PORT)
    claims.release(PORT, first)
    late = segments(Sent(10, 5, 150), Sent(15, 0, 160, RST), Sent(-1, 0, 190, SYN, sent=True), Sent(-1, 0, 200, SYN))
    claims.hand_out(ports_of(late), late)
    second.take(segments(Sent(0, 10, 300)))

    assert stamps_of_bytes(second, 10) == [300] * 10
    assert second.facts().reset_by is None


def test_a_segment_that_others_waited_for_is_late_and_one_that_came_twice_is_not() -> None:
    connection = opened()
    connection.take(segments(Sent(0, 10, 100), Sent(20, 10, 200), Sent(30, 10, 300)))
    connection.take(segments(Sent(10, 10, 400), Sent(30, 10, 500), Sent(40, 10, 600)))

    facts = connection.facts()
    assert (facts.late_segments, facts.retransmissions) == (1, 1)
