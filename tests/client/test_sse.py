"""Server-sent events come out the same however their bytes are cut."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.client.answer import OUTSIDE
from llmload.client.sse import Event, EventDecoder

STREAMS = sorted((Path(__file__).parent / "streams").glob("*.sse"))


def decoded(*pieces: bytes) -> list[Event]:
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def cut_everywhere(stream: bytes) -> list[list[Event]]:
    return [decoded(stream[:at], stream[at:]) for at in range(1, len(stream))]


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
FIELDS = st.one_of(
    st.binary(max_size=8).map(lambda value: b"data: " + value),
    st.text(max_size=6).map(lambda value: b"data:" + value.encode()),
    st.sampled_from([b"", b"", b": comment", b"event: error", b"id: 7", b"retry: 9", b"data", b"nonsense"]),
)
LINES = st.lists(st.tuples(FIELDS, LINE_ENDS), max_size=14).map(lambda lines: b"".join(a + b for a, b in lines))


@given(stream=LINES)
def test_every_cut_gives_the_same_events(stream: bytes) -> None:
    whole = decoded(stream)

    assert decoded(*(stream[at : at + 1] for at in range(len(stream)))) == whole
    for events in cut_everywhere(stream):
        assert events == whole


@given(
    events=st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", codec="utf-8")), min_size=1),
    data=st.data(),
)
def test_what_is_sent_comes_out_however_it_is_cut(events: list[str], data: st.DataObject) -> None:
    stream = b"".join(b"data: " + event.encode() + b"\n\n" for event in events)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert decoded(*pieces) == [(b"", event.encode()) for event in events]


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_captured_streams_survive_every_cut(path: Path) -> None:
    stream = path.read_bytes()
    stream = stream.partition(b"\r\n\r\n")[2] if stream.startswith(b"HTTP/") else stream
    whole = decoded(stream)

    assert sum(kind not in (b"error", OUTSIDE) for kind, _ in whole) == stream.count(b"data: ")
    for at in range(0, len(stream), 7):
        assert decoded(stream[:at], stream[at:]) == whole


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [(b"", b"YHOO\n+2\n10")]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
         [(b"", b"first event"), (b"", b"second event"), (b"", b" third event")]),
        (b"data\n\ndata\ndata\n\ndata:", [(b"", b""), (b"", b"\n")]),
        (b"data:test\n\ndata: test\n\n", [(b"", b"test"), (b"", b"test")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
        (b"event: add\ndata: 1\n\nevent: gone\n\ndata: 2\n\n", [(b"add", b"1"), (b"", b"2")]),
        (b'data: {"a":"x\xe2\x80\xa8y\x0b\x0c\x85"}\n\n', [(b"", b'{"a":"x\xe2\x80\xa8y\x0b\x0c\x85"}')]),
        (b"data: a\r\rdata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")]),
        (b"data: never ended\n", []),
    ],
)  # fmt: skip
def test_the_standards_examples(stream: bytes, events: list[Event]) -> None:
    assert decoded(stream) == events
    assert decoded(*(stream[at : at + 1] for at in range(len(stream)))) == events


def test_an_event_is_returned_with_the_piece_that_completes_it() -> None:
    decoder = EventDecoder()

    assert [decoder.feed(piece) for piece in (b"data: a\n", b"\n", b"data: b\r\n\r", b"\n")] == [
        [],
        [(b"", b"a")],
        [(b"", b"b")],
        [],
    ]
