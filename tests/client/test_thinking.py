"""Reasoning apart from the answer: which chunks are which, by fields and by tags that are cut anywhere."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.client.answer import StreamState
from llmload.client.api import ChatApi, ChatStream, TgiApi, WordyChatStream
from llmload.client.errors import AttemptError
from llmload.client.settings import ClientSettings
from llmload.client.thinking import TaggedText, split_reasoning
from llmload.client.words import Words
from llmload.record import NO_CHUNKS, Outcome, ReasoningSource, RequestRecord
from tests.client.test_answers import by_decoding, by_frames, chat_event

TAGGED = ClientSettings(base_urls=("http://e",), model="m", reasoning_in_tags=True)


def thought(text: str) -> dict[str, Any]:
    return {"reasoning_content": text}


def said(text: Any) -> dict[str, Any]:
    return {"content": text}


ROLE = {"role": "assistant", "content": ""}
CALL = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}

# The deltas, one each 10 ns, and which of those with text are reasoning (r) and answer (a).
FIELDS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "an ordinary answer": ([ROLE, said("a"), said("b"), said("c")], "aaa"),
    "reasoning, then the answer": ([ROLE, *map(thought, "xyz"), *map(said, "abc")], "rrraaa"),
    "vLLM's field": ([ROLE, {"reasoning": "x"}, {"reasoning": "y"}, said("a")], "rra"),
    "SGLang's null beside each": (
        [{"content": None, "reasoning_content": "x"}] * 3 + [{"content": "a", "reasoning_content": None}] * 2,
        "rrraa",
    ),
    "both where one ends": ([thought("x"), {"reasoning_content": "y", "content": "a"}, said("b")], "raa"),
    "reasoning again in between": ([*map(thought, "xy"), *map(said, "ab"), *map(thought, "zz"), said("c")], "rraarra"),
    "an odd text at each turn": (
        [thought("x"), thought("y"), said('a"\n'), thought("z"), thought("w"), said("\\"), said("b")],
        "rrarraa",
    ),
    "only reasoning": ([ROLE, *map(thought, "xyz")], "rrr"),
    "a call of a tool": ([thought("x"), CALL, CALL], "raa"),
    "parts of a content": (
        [
            said([{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}]),
            said([{"type": "text", "text": "a"}]),
        ],
        "ra",
    ),
    "details of reasoning": ([{"reasoning_details": [{"type": "reasoning.text", "text": "x"}]}, said("a")], "ra"),
    "a null content beside a call": ([{"content": None, **thought("x")}, {"content": None, **CALL}], "ra"),
}


def kinds(answer: StreamState) -> str:
    fields = answer.record_fields()
    count = len(fields["chunk_ns"])
    if not fields.get("reasoning_chunks"):
        return "a" * count
    return "".join("a" if each else "r" for each in answer._answers())


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("at_a_time", [1, 1_000])
def test_each_chunk_is_reasoning_or_answer_in_known_frames_too(name: str, at_a_time: int) -> None:
    deltas, expected = FIELDS[name]
    events = [chat_event(each) for each in deltas]
    by_frame, decoded, wordy = ChatStream(), ChatStream(), WordyChatStream(1, Words())

    by_frames(by_frame, events, at_a_time)
    by_decoding(decoded, events)
    by_decoding(wordy, events)

    assert [kinds(each) for each in (by_frame, decoded, wordy)] == [expected] * 3
    first = expected.find("a")
    given = decoded.record_fields()
    if "r" in expected:
        assert given["first_answer_ns"] == (decoded.chunk_ns[first] if first >= 0 else None)
        assert given["reasoning_chunks"] == expected.count("r")


@given(st.lists(st.sampled_from([thought("x"), thought("y\n"), said("a"), said('"'), ROLE, CALL]), max_size=12))
def test_known_frames_never_mix_them_up(deltas: list[dict[str, Any]]) -> None:
    events = [chat_event(each) for each in deltas]
    by_frame, decoded = ChatStream(), ChatStream()

    by_frames(by_frame, events)
    by_decoding(decoded, events)

    assert kinds(by_frame) == kinds(decoded)
    assert by_frame.record_fields().keys() == decoded.record_fields().keys()


TEXTS: dict[str, tuple[str, str, str]] = {
    "no tags": ("Hello there", "", "Hello there"),
    "both tags": ("<think>why</think>\n\nBecause.", "why", "Because."),
    "the template has the first tag": ("why</think>Because.", "why", "Because."),
    "cut while it thinks": ("<think>why and", "why and", ""),
    "twice": ("<think>x</think>one <think>y</think>two", "xy", "one two"),
    "space before": ("\n<think>x</think> a", "x", "a"),
    "something like a tag": ("a < b and <thin", "", "a < b and <thin"),
    "an empty thought": ("<think>\n</think>\n\nyes", "", "yes"),
    "a second end begins nothing": ("<think>x</think>a</think>b", "x", "ab"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_tags_are_found_wherever_chunks_cut_them(name: str) -> None:
    text, reasoning, answer = TEXTS[name]
    assert split_reasoning(text) == (reasoning, answer)

    for size in (1, 2, 3, 5, 7, 100):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        tagged = TaggedText()
        for piece in pieces:
            tagged.take(piece)
        of_answer = "".join(piece for piece, is_answer in zip(pieces, tagged.answers(), strict=True) if is_answer)
        assert all(letter in of_answer for letter in answer.replace(" ", "")), size
        if size == 1:
            assert of_answer.strip() == answer  # each character by itself


def test_a_tag_in_a_known_frame_is_not_skipped_and_calls_of_tools_are_answers() -> None:
    deltas = [ROLE, *map(said, ["<th", "ink>", "x", "y", "</thi", "nk>", "\n\n", "a", "b"]), CALL]
    answer = ChatApi(TAGGED).new_answer()

    by_frames(answer, [chat_event(each) for each in deltas])
    fields = answer.record_fields()

    assert (fields["reasoning_chunks"], len(fields["chunk_ns"])) == (7, 10)
    assert fields["first_answer_ns"] == fields["chunk_ns"][7]


def test_a_chunk_that_is_too_much_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmload.client.thinking.MAX_TAGGED_CHARACTERS", 4)
    answer = ChatApi(TAGGED).new_answer()
    events = [chat_event(said("x"), usage={"completion_tokens": number + 1}) for number in range(5)]

    with pytest.raises(AttemptError):
        by_decoding(answer, events)
    assert len(answer.record_fields()["chunk_ns"]) == 4


def test_tags_and_a_field_of_reasoning_in_one_answer() -> None:
    answer = ChatApi(TAGGED).new_answer()
    by_decoding(answer, [chat_event(each) for each in (thought("x"), said("<think>y"), said("</think>"), said("a"))])

    assert answer.record_fields()["reasoning_chunks"] == 3


def test_words_of_a_tagged_answer_are_split() -> None:
    words = Words()
    answer = ChatApi(TAGGED).new_answer(words)
    by_decoding(answer, [chat_event(said(each)) for each in ("<thi", "nk>why</th", "ink> Becau", "se.")])

    assert (words.reasoning, words.text) == ("why", "Because.")


def test_tags_of_tgi() -> None:
    settings = ClientSettings(base_urls=("http://e",), model="m", api="tgi-generate", reasoning_in_tags=True)
    answer = TgiApi(settings).new_answer()
    texts = ["<think>", "x", "</think>", "a"]
    by_decoding(answer, [b'data:{"token":{"text":"%s","special":false}}\n\n' % each.encode() for each in texts])

    assert answer.record_fields()["reasoning_chunks"] == 3


def counted(deltas: list[dict[str, Any]], usage: dict[str, Any], *, on_each: bool = False) -> dict[str, Any]:
    answer = ChatStream()
    events = [
        chat_event(each, usage={"completion_tokens": 2 * number} if on_each else None)
        for number, each in enumerate(deltas, start=1)
    ]
    by_decoding(answer, [*events, chat_event({}, "stop", usage={"prompt_tokens": 9, **usage})])
    return answer.record_fields()


@pytest.mark.parametrize(
    ("usage", "on_each", "tokens", "source"),
    [
        (
            {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 33}},
            False,
            33,
            ReasoningSource.USAGE,
        ),
        ({"completion_tokens": 8}, True, 6, ReasoningSource.CHUNK_USAGE),
        ({"completion_tokens": 40}, False, 30, ReasoningSource.CHUNKS),
        (
            {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 0}},
            False,
            30,
            ReasoningSource.CHUNKS,
        ),
    ],
    ids=["usage", "usage on each chunk", "estimated", "a placeholder"],
)
def test_reasoning_tokens_are_counted_or_estimated_and_marked(
    usage: dict[str, Any], on_each: bool, tokens: int, source: ReasoningSource
) -> None:
    fields = counted([*map(thought, "xyz"), said("a")], usage, on_each=on_each)

    assert (fields["reasoning_tokens"], fields["reasoning_source"]) == (tokens, source)


def test_hidden_reasoning_shows_in_the_count_alone() -> None:
    usage = {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 33}}
    hidden = record(**counted([said("a"), said("b")], usage))

    assert (hidden.hides_reasoning, hidden.reasoning_source) == (True, ReasoningSource.USAGE)
    assert hidden.ttfa_s == hidden.ttft_s
    assert hidden.thinking_s is None


def record(**fields: Any) -> RequestRecord:
    needed = {"request_id": "r", "prompt_id": "p", "started_ns": 0, "done_ns": 10**9, "outcome": Outcome.COMPLETED}
    return RequestRecord(**{**needed, **fields})


def _stamps(moments_ms: tuple[int, ...]) -> Any:
    return np.array(moments_ms, dtype=np.int64) * 1_000_000


def test_the_times_of_an_answer_with_reasoning_by_hand() -> None:
    thinking = record(
        chunk_ns=_stamps((100, 150, 200, 300, 340, 380)),
        first_answer_ns=300_000_000,
        reasoning_chunks=3,
        output_tokens=12,
        reasoning_tokens=7,
    )

    assert thinking.ttft_s == 0.1
    assert thinking.ttfa_s == 0.3
    assert thinking.thinking_s == 0.2
    assert thinking.answer_tpot_s == 0.08 / 4
    assert thinking.tpot_s == pytest.approx(0.28 / 11)


@pytest.mark.parametrize(
    ("changes", "ttfa_s", "answer_tpot_s", "only_reasoning"),
    [
        ({"reasoning_chunks": 0, "first_answer_ns": None, "reasoning_tokens": None}, 0.1, None, False),
        ({"first_answer_ns": None, "reasoning_chunks": 6}, None, None, True),
        ({"first_answer_ns": 150_000_000}, 0.15, None, False),
        ({"reasoning_tokens": 11}, 0.3, None, False),
        ({"reasoning_tokens": None}, 0.3, None, False),
        ({"chunk_ns": NO_CHUNKS}, 0.3, None, False),
    ],
    ids=["no reasoning", "no answer", "reasoning after the answer began", "one token", "not counted", "no chunks kept"],
)
def test_what_is_not_known_of_it(
    changes: dict[str, Any], ttfa_s: float | None, answer_tpot_s: float | None, only_reasoning: bool
) -> None:
    known = {
        "chunk_ns": _stamps((100, 150, 200, 300, 340, 380)),
        "first_answer_ns": 300_000_000,
        "reasoning_chunks": 3,
        "output_tokens": 12,
        "reasoning_tokens": 7,
    }
    answer = record(**{**known, **changes})

    assert (answer.ttfa_s, answer.answer_tpot_s, answer.only_reasoning) == (ttfa_s, answer_tpot_s, only_reasoning)
