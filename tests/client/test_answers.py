"""What events say, and that the fast path gives the same answer as the decoder."""

from array import array
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmload.client.answer import StreamState
from llmload.client.api import ChatApi, ChatStream, TgiApi, TgiStream, generate_parameters
from llmload.client.http_response import Response
from llmload.client.settings import FOREVER_NS, ClientSettings
from llmload.client.sse import Decoder, EventDecoder, EventsBody
from llmload.prompts.conversation import Prompt, as_message
from llmload.record import ErrorType, TokenSource

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chat_event(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
    chunk = {"id": "a", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def facts(answer: StreamState) -> tuple[Any, ...]:
    moments = answer.chunk_ns.tolist(), answer.textless_ns.tolist()
    failure = answer.failure(None, ended=True)
    return *moments, answer.counts(), answer.finish_reason, answer.finished, answer.error, failure


def as_chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def by_frames(
    answer: StreamState, pieces: list[bytes], at_a_time: int = 1_000, until_ns: int = FOREVER_NS
) -> tuple[Any, ...]:
    response = Response()
    decoder = Decoder(response, answer)
    response.feed(HEAD, 0)
    for first in range(0, len(pieces), at_a_time):
        for moment, piece in enumerate(pieces[first : first + at_a_time], start=first):
            if piece:  # a chunk of nothing would be the end
                response.feed(as_chunk(piece), moment)
        while response.raw or response.body:
            decoder.advance(until_ns)
    decoder.end()
    assert response.pending_bytes == 0
    return facts(answer)


def by_decoding(answer: StreamState, pieces: list[bytes]) -> tuple[Any, ...]:
    decoder = EventDecoder()
    for moment, piece in enumerate(pieces):
        for kind, data in decoder.feed(piece):
            answer.take_event(moment, kind, data)
    for kind, data in decoder.finish():
        answer.take_event(0, kind, data)
    return facts(answer)


TEXTS = st.one_of(
    st.sampled_from(["a", " b", "", '"', "\\", "\n", "stop", "content", "null", "a"]), st.text(max_size=4)
)
DELTAS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"content": None, "reasoning_content": text}),
    TEXTS.map(lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
    TEXTS.map(lambda text: {"refusal": text}),
    TEXTS.map(lambda text: {"content": [{"type": "text", "text": text}]}),
    TEXTS.map(lambda text: {"tool_calls": [{"index": 0, "function": {"name": text, "arguments": ""}}]}),
    TEXTS.map(lambda text: {"answer": text}),
    st.just({"role": "assistant", "content": ""}),
    st.just({}),
)
ODD = st.sampled_from(
    [
        *(b"data: [DONE]\n\n", b"event: error\n\n", b": wait\n", b": wait\n\n", b'error: {"message":"died"}\n\n'),
        *(b'{"error":"died"}\n', b"sorry\n\n", b'data: {"error":"died"}', b"\r\n", b"\n", b"\xef\xbb\xbf"),
        b'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"index":0,"message":{"content":"whole"},"finish_reason":""}]}\n\n',
        b'data: {"choices":[],"usage":{"completion_tokens":-1}}\n\n',
    ]
)
EVENTS = st.builds(
    chat_event,
    DELTAS,
    st.sampled_from([None, None, None, None, "stop", "", "abort"]),
    usage=st.sampled_from([None, None, None, {"completion_tokens": 3}, {"completion_tokens": 0}]),
)


@settings(max_examples=30)  # the fuzzer tries it with more
@given(events=st.lists(st.one_of(EVENTS, EVENTS, EVENTS, ODD), max_size=20), data=st.data())
def test_the_fast_path_gives_the_same_answer(events: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(events) + b"data: [DONE]\n\n"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=4)))
    ends = sorted({sum(map(len, events[:number])) for number in range(len(events) + 1)} | set(cuts))
    pieces = [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)]

    at_a_time = data.draw(st.sampled_from([1, 2, 3, 7, 1_000]))
    until_ns = data.draw(st.sampled_from([0, FOREVER_NS]))
    assert by_frames(ChatStream(), pieces, at_a_time, until_ns) == by_decoding(ChatStream(), pieces)


def content(text: str) -> bytes:
    return chat_event({"content": text})


@pytest.mark.parametrize("size", [b"%x", b"%X", b"000%x"], ids=["lower case", "upper case", "zeros in front"])
def test_a_chunk_in_a_known_frame_is_neither_parsed_nor_decoded(size: bytes) -> None:
    answer = ChatStream()
    body = EventsBody(answer)
    body.take_many(array("q", [1, 2]), [content(""), content("one")], FOREVER_NS)
    reads = [
        size % len(event) + b"\r\n" + event + b"\r\n" for event in (content("two"), content("three"), content("four"))
    ]

    assert body.take_chunks(array("q", [3, 4, 5]), reads) == 3
    assert answer.chunk_ns.tolist() == [2, 3, 4, 5]


TWO = content("two")


@pytest.mark.parametrize(
    "read",
    [
        as_chunk(TWO) + as_chunk(TWO),
        as_chunk(TWO)[:-2],
        as_chunk(TWO)[:-1],
        b"\r\n" + as_chunk(TWO),
        TWO,
        b"%x\r\n%s\r\n" % (len(TWO) + 1, TWO),
        b"+%x\r\n%s\r\n" % (len(TWO), TWO),
        b"0x%x\r\n%s\r\n" % (len(TWO), TWO),
        b"%x;ext\r\n%s\r\n" % (len(TWO), TWO),
        as_chunk(TWO + TWO),
        as_chunk(TWO[:-1]),
        as_chunk(b" " + TWO),
        as_chunk(content("")),
        as_chunk(content('"')),
        as_chunk(content("\\")),
        as_chunk(chat_event({"content": "x", "role": "assistant"})),
    ],
    ids=[
        *("two chunks", "no line end", "half a line end", "a line end first", "no size", "a wrong size", "a sign"),
        *("a prefix", "an extension", "two events", "half an event's end", "a space", "no text", "a quote"),
        *("a backslash", "another frame"),
    ],
)  # fmt: skip
def test_what_is_not_a_chunk_in_the_known_frame_is_parsed(read: bytes) -> None:
    body = EventsBody(ChatStream())
    body.take_many(array("q", [1, 2]), [content(""), content("one")], FOREVER_NS)

    assert body.take_chunks(array("q", [3, 4]), [read, as_chunk(content("three"))]) == 0


def test_the_fast_path_is_used_only_at_the_start_of_a_chunk() -> None:
    inner = as_chunk(content("two"))
    stream = b"".join((as_chunk(content("")), as_chunk(content("one")), b"%x\r\n" % len(inner)))
    response, answer = Response(), ChatStream()
    decoder = Decoder(response, answer)
    for moment, read in enumerate((HEAD, stream, inner, b"\r\n")):
        response.feed(read, moment)
        while response.raw or response.body:
            decoder.advance(FOREVER_NS)

    assert answer.chunk_ns.tolist() == [1, 2], "the size line that the chunk holds is not an event, and ends none"


@pytest.mark.parametrize(
    ("reads", "coalesced_ns"),
    [
        ([content("") + content("one"), content("two"), chat_event({}, "stop") + b"data: [DONE]\n\n"], []),
        ([content("one"), content("two") + content("three"), content("four")], [2]),
    ],
    ids=["a role with the first, a finish with the end", "two texts"],
)
def test_only_chunks_with_text_count_as_coalesced(reads: list[bytes], coalesced_ns: list[int]) -> None:
    answer = ChatStream()

    EventsBody(answer).take_many(array("q", range(1, len(reads) + 1)), reads, FOREVER_NS)

    assert answer.coalesced_ns == coalesced_ns


def test_role_and_finish_chunks_are_stamped_and_usage_is_not() -> None:
    answer = ChatStream()
    by_decoding(
        answer,
        [
            chat_event({"role": "assistant", "content": ""}),
            chat_event({"content": "one"}),
            chat_event({}, "stop"),
            b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\n',
        ],
    )

    assert (answer.stamps().tolist(), answer.textless_stamps().tolist()) == ([1], [0, 2])


@pytest.mark.parametrize("text", [b"a\x8ab", b"a\x00b", b"a\tb"], ids=["no UTF-8", "a NUL", "a tab"])
def test_odd_text_in_a_known_frame_is_still_decoded(text: bytes) -> None:
    known = [chat_event({"content": ""}), chat_event({"content": "one"}), chat_event({"content": "two"})]
    pieces = [*known, chat_event({"content": "MARK"}).replace(b"MARK", text)]

    assert by_frames(ChatStream(), pieces) == by_decoding(ChatStream(), pieces)


def test_invalid_events_before_a_frame_is_known_give_no_frame() -> None:
    pieces = [b": hello\n\n", b"\0noise\0", b"\n\n"]

    assert by_frames(ChatStream(), pieces) == by_decoding(ChatStream(), pieces)


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ({"error": {"message": "m" * 900}}, ErrorType.ENGINE_ERROR, "m" * 500),
        ({"error": "out of\nmemory"}, ErrorType.ENGINE_ERROR, "out of memory"),
        ({"error": {"code": 7}}, ErrorType.ENGINE_ERROR, '{"code":7}'),
        ({"detail": [{"msg": "one"}, {"msg": "two"}]}, ErrorType.ENGINE_ERROR, "one; two"),
        ({"object": "error", "message": "old form", "code": 400}, ErrorType.ENGINE_ERROR, "old form"),
        ({"choices": [{"delta": "text"}]}, ErrorType.NOT_JSON, "an object of unknown form"),
        ({"choices": 3}, ErrorType.NOT_JSON, "an object of unknown form"),
    ],
)
def test_errors_in_events(said: dict[str, Any], kind: ErrorType, message: str) -> None:
    answer = ChatStream()
    answer.take_event(1, b"", orjson.dumps(said))

    assert answer.error is not None
    assert answer.error.type is kind
    assert answer.error.message.startswith(message)
    assert len(answer.error.message) <= 500


def test_an_event_of_type_error_is_an_error() -> None:
    answer = ChatStream()
    answer.take_event(1, b"error", b"the worker died")

    assert answer.error is not None
    assert (answer.error.type, answer.error.message) == (ErrorType.ENGINE_ERROR, "the worker died")


COUNTS = ["completion_tokens", "prompt_tokens_details", "cached_tokens", "generated_tokens", "prefill", "usage"]
TEXT_KEYS = [
    "choices",
    "delta",
    "content",
    "finish_reason",
    "tool_calls",
    "function",
    "token",
    "text",
    "generated_text",
]
KEYS = st.sampled_from([*COUNTS, *TEXT_KEYS, "error", "message", "details"])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3)),
    lambda part: st.one_of(st.lists(part, max_size=2), st.dictionaries(KEYS, part, max_size=4)),
    max_leaves=12,
)


@given(said=st.lists(JSON, max_size=3), whole=st.booleans(), tgi=st.booleans())
def test_no_event_raises(said: list[Any], whole: bool, tgi: bool) -> None:
    answer = TgiStream() if tgi else ChatStream()
    for part in said:
        if whole:
            answer.take_whole(orjson.dumps(part))
        else:
            answer.take_event(1, b"", orjson.dumps(part))

    answer.counts()
    answer.chunk_tokens()
    answer.stamps()


@pytest.mark.parametrize("said", [{"type": "ping"}, {"choices": None}, {"error": None, "choices": []}])
def test_empty_events_are_not_errors(said: dict[str, Any]) -> None:
    answer = ChatStream()
    answer.take_event(1, b"", orjson.dumps(said))

    assert answer.error is None
    assert not answer.chunk_ns


@pytest.mark.parametrize(
    ("usage", "cached", "reasoning"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 3}}, 3, None),
        ({"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": 2}}, None, 2),
        ({"prompt_cache_hit_tokens": 5, "reasoning_tokens": 4}, 5, 4),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, 0, None),
    ],
)
def test_details_of_usage(usage: dict[str, Any], cached: int | None, reasoning: int | None) -> None:
    answer = ChatStream()
    answer.take_event(1, b"", orjson.dumps({"choices": [], "usage": {"completion_tokens": 9} | usage}))

    assert (answer.counts().output_tokens, answer.counts().cached_tokens, answer.counts().reasoning_tokens) == (
        9,
        cached,
        reasoning,
    )


def test_usage_with_or_after_the_finish_counts_as_usage() -> None:
    answer = ChatStream()
    for event in (chat_event({"content": "a"}, usage={"completion_tokens": 1}), chat_event({}, "stop")):
        answer.take_event(1, b"", event[6:-2])
    assert answer.counts().token_source is TokenSource.CHUNK_USAGE

    answer.take_event(2, b"", b'{"choices":[],"usage":{"completion_tokens":2}}')
    assert answer.counts().token_source is TokenSource.USAGE


def test_several_tokens_a_chunk_are_one_chunk() -> None:
    answer = ChatStream()
    for total in (3, 7):
        answer.take_event(total, b"", chat_event({"content": "many"}, usage={"completion_tokens": total})[6:-2])

    tokens = answer.chunk_tokens()
    assert tokens is not None
    assert tokens.tolist() == [3, 4]


def test_tgi_counts_chunks_if_the_engine_gives_no_details() -> None:
    answer = TgiStream()
    answer.take_event(1, b"", b'{"token":{"text":"a","special":false},"generated_text":null,"details":null}')
    answer.take_event(2, b"", b'{"token":{"text":"b","special":false},"generated_text":"ab","details":null}')

    assert answer.finished
    assert (answer.counts().output_tokens, answer.counts().token_source) == (2, TokenSource.CHUNKS)


def test_tgi_is_sent_one_text() -> None:
    prompt = Prompt(
        "1", (as_message("system", "Be brief."), as_message("user", "Hi"), as_message("assistant", "Hello"))
    )
    settings = ClientSettings(base_urls=("http://h",), model="m", api="tgi-generate", body={"max_tokens": 3})

    assert orjson.loads(TgiApi(settings).encode(prompt)) == {
        "inputs": "Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nAssistant:",
        "parameters": {"details": True, "max_new_tokens": 3},
    }


def test_tgi_is_sent_fields_under_its_own_names() -> None:
    fields = {"temperature": 0, "top_p": 1.0, "stop": "END", "seed": 7, "max_completion_tokens": 5, "watermark": True}

    assert generate_parameters(fields) == {
        "details": True,
        "do_sample": False,
        "stop": ["END"],
        "seed": 7,
        "max_new_tokens": 5,
        "watermark": True,
    }
    assert generate_parameters({"temperature": 0.7, "top_p": 0.9})["temperature"] == 0.7


def test_chat_sends_only_what_is_set() -> None:
    prompt = Prompt("1", (as_message("user", "Hi"),))
    settings = ClientSettings(base_urls=("http://h",), model="m", stream=False)

    assert ChatApi(settings).fields(prompt) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
    }
