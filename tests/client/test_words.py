"""The words of an answer: what deltas and whole messages say, and that counting is the same with and without them."""

from typing import Any

import orjson
import pytest

from llmload.client.answer import StreamState
from llmload.client.api import ChatApi, TgiApi
from llmload.client.errors import AttemptError
from llmload.client.settings import ClientSettings
from llmload.client.words import MAX_CHARACTERS, ToolCall, Words
from tests.client.test_answers import by_frames

SETTINGS = ClientSettings(base_urls=("http://e",), model="m")


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    return {"index": index, **more, "function": {"arguments": arguments, **({"name": "f"} if more else {})}}


STREAMS: dict[str, tuple[list[dict[str, Any]], tuple[str, str, tuple[ToolCall, ...]]]] = {
    "content": (
        [
            chunk({"role": "assistant", "content": ""}),
            chunk({"content": "a"}),
            chunk({"content": "b"}),
            chunk({}, "stop"),
        ],
        ("ab", "", ()),
    ),
    "reasoning": (
        [chunk({"reasoning_content": "x"}), chunk({"reasoning": "y"}), chunk({"content": "z"}, "stop")],
        ("z", "xy", ()),
    ),
    "many pieces, of which some are thoughts": (
        [
            *(chunk({"reasoning": text}) for text in "abcdefgh"),
            *(chunk({"content": text}) for text in ["i", "j", 'k"', "l\n", "ü", "m", "n", "o", "\\", "p", "q"]),
            *(chunk({"reasoning": text}) for text in "rstuv"),
            *(chunk({"content": text}) for text in "wxyz"),
            chunk({}, "stop"),
        ],
        ('ijk"l\nümno\\pqwxyz', "abcdefghrstuv", ()),
    ),
    "two choices in turn": (
        [chunk({"content": text}, index=index) for text in "abcdefgh" for index in (0, 1)] + [chunk({}, "stop")],
        ("abcdefgh", "", ()),
    ),
    "a refusal": ([chunk({"refusal": "no"}, "stop")], ("no", "", ())),
    "parts": ([chunk({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}, "stop")], ("ab", "", ())),
    "calls of tools in pieces": (
        [
            chunk({"tool_calls": [call(0, "", id="i")]}),
            chunk({"tool_calls": [call(0, '{"a":'), call(1, "2", id="j")]}),
            chunk({"tool_calls": [call(0, "1}")]}, "tool_calls"),
        ],
        ("", "", (ToolCall(id="i", name="f", arguments='{"a":1}'), ToolCall(id="j", name="f", arguments="2"))),
    ),
    "as tools were called first": (
        [chunk({"function_call": {"name": "f", "arguments": "1"}}, "function_call")],
        ("", "", (ToolCall(id="", name="f", arguments="1"),)),
    ),
    "the first of two choices": (
        [chunk({"content": "a"}), chunk({"content": "b"}, "stop", index=1), chunk({}, "stop")],
        ("a", "", ()),
    ),
    "a whole message behind its deltas": (
        [chunk({"content": "a"}), {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}],
        ("a", "", ()),
    ),
    "values of other types": (
        [chunk({"content": 7, "tool_calls": [None, {"function": 3}]}), chunk({"content": "a"}, "stop")],
        ("a", "", (ToolCall(id="", name="", arguments=""),)),
    ),
}


def taken(answer: StreamState, events: list[dict[str, Any]]) -> list[str | None]:
    return [answer.take_event(moment, b"", orjson.dumps(event)) for moment, event in enumerate(events, start=1)]


def said(words: Words) -> tuple[str, str, tuple[ToolCall, ...]]:
    return words.text, words.reasoning, words.tool_calls


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("at_a_time", [1, 1_000])
def test_the_words_of_a_stream_and_the_same_count_without_them(name: str, at_a_time: int) -> None:
    events, expected = STREAMS[name]
    words, framed, api = Words(), Words(), ChatApi(SETTINGS)
    wordy, wordy_by_frames, plain = api.new_answer(words), api.new_answer(framed), api.new_answer()

    taken(wordy, events)
    by_frames(wordy_by_frames, [b"data: " + orjson.dumps(event) + b"\n\n" for event in events], at_a_time)
    taken(plain, events)

    assert said(words) == said(framed) == expected
    for answer in (wordy, plain):
        answer.take_event(99, b"", b"[DONE]")
    assert [str(value) for value in wordy.record_fields().values()] == [
        str(value) for value in plain.record_fields().values()
    ]


def test_words_in_known_frames_are_kept_without_being_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    words, parsed = Words(), list[bytes]()
    take_json = StreamState._take_json

    def noted(self: StreamState, arrived_ns: int, data: bytes) -> str | None:
        parsed.append(data)
        return take_json(self, arrived_ns, data)

    monkeypatch.setattr(StreamState, "_take_json", noted)
    texts = [f"{number} " for number in range(100, 200)]
    reads = [b"data: " + orjson.dumps(chunk({"content": text})) + b"\n\n" for text in texts]

    by_frames(ChatApi(SETTINGS).new_answer(words), reads, at_a_time=10)

    assert words.text == "".join(texts)
    assert len(parsed) < 20


def test_the_words_of_an_answer_in_one_piece() -> None:
    words = Words()
    message = {
        "content": "a",
        "reasoning": "r",
        "tool_calls": [{"id": "i", "function": {"name": "f", "arguments": "{}"}}],
    }
    answer = ChatApi(SETTINGS).new_answer(words)

    answer.take_whole(orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}))

    assert said(words) == ("a", "r", (ToolCall(id="i", name="f", arguments="{}"),))


def test_the_words_of_generate_stream() -> None:
    words = Words()
    events: list[dict[str, Any]] = [
        {"token": {"text": "a"}},
        {"token": {"text": "</s>", "special": True}, "generated_text": "a"},
    ]

    taken(TgiApi(SETTINGS).new_answer(words), events)

    assert words.text == "a"


def test_another_attempt_begins_with_no_words() -> None:
    words, api = Words(), ChatApi(SETTINGS)
    taken(api.new_answer(words), [chunk({"content": "cut"})])

    taken(api.new_answer(words), [chunk({"content": "whole"}, "stop")])

    assert words.text == "whole"


def test_an_answer_that_never_ends_fails() -> None:
    words = Words()
    piece = {"delta": {"content": "x" * (MAX_CHARACTERS // 4)}}
    for _ in range(4):
        words.take_choice(piece)

    with pytest.raises(AttemptError):
        words.take_choice(piece)
