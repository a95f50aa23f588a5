"""
Answers as engines have sent them, by the kind of fault in them, and what every client must make of each.

Most are cut down from public reports about engines and gateways.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from llmload.record import ErrorType, RequestRecord, TokenSource
from tests.client.scripted_server import EVENTS_HEAD, answer, chunked


def event(**chunk: Any) -> bytes:
    """Return an event of one chunk."""
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def delta(fields: Any, finish_reason: Any = None, index: int = 0, **more: Any) -> bytes:
    """Return the event of one choice."""
    return event(choices=[{"index": index, "delta": fields, "finish_reason": finish_reason}], **more)


def word(content: str, finish_reason: Any = None, **more: Any) -> bytes:
    """Return the event of one piece of text."""
    return delta({"content": content}, finish_reason, **more)


def usage(**counts: Any) -> bytes:
    """Return the event of a usage object."""
    return event(choices=[], usage=counts)


ROLE = delta({"role": "assistant", "content": ""})
A, B, C = word("a"), word("b"), word("c")
STOP = delta({}, "stop")
DONE = b"data: [DONE]\n\n"
FAILED, INCOMPLETE, ABORTED = ErrorType.ENGINE_ERROR, ErrorType.INCOMPLETE, ErrorType.ABORTED


@dataclass(frozen=True)
class Case:
    """What a server sends, and what the record of it says; `says` is in the error's message."""

    sent: bytes
    error: ErrorType | None = None
    says: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    """Fields of the request."""


def stream(*events: bytes, error: ErrorType | None = None, says: str = "", **record: Any) -> Case:
    """Return the case of a stream of events, well framed to its end."""
    return Case(EVENTS_HEAD + chunked(*events), error, says, record)


def whole(said: Any, error: ErrorType | None = None, says: str = "", **record: Any) -> Case:
    """Return the case of an answer in one piece."""
    return Case(answer(said if isinstance(said, bytes) else orjson.dumps(said)), error, says, record)


def two(*events: bytes, error: ErrorType | None = None, says: str = "", **record: Any) -> Case:
    """Return the case of a request for two choices."""
    return Case(EVENTS_HEAD + chunked(*events), error, says, record, body={"n": 2})


def message(fields: dict[str, Any], finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    """Return an answer in one piece."""
    return {"choices": [{"index": 0, "message": fields, "finish_reason": finish_reason}], **more}


SAID = {"role": "assistant", "content": "Hello there."}

NO_REASONS: list[Any] = ["", "null", "None", " ", False, 0, {}, []]
FINISHED = {
    **{
        f"{reason!r} on every chunk, then the end": stream(
            *(word(each, reason) for each in "abc"), error=INCOMPLETE, says="without a finish_reason"
        )
        for reason in NO_REASONS
    },
    **{
        f"{reason!r} on every chunk, then stop": stream(
            *(word(each, reason) for each in "abc"), STOP, DONE, finish_reason="stop", output_tokens=3
        )
        for reason in ("", "null", " NULL ", False)
    },
    **{
        reason: stream(A, delta({}, reason), DONE, error=ABORTED, says=f"finish_reason is {reason}", finish_reason=name)
        for reason, name in {
            "abort": "abort",
            "aborted": "abort",
            "cancelled": "cancelled",
            "canceled": "cancelled",
            "CANCELED": "cancelled",
            "timeout": "timeout",
            "timed_out": "timeout",
            "request_timeout": "timeout",
            "client_disconnected": "abort",
        }.items()
    },
    **{
        reason: stream(
            A, delta({}, reason), DONE, error=FAILED, says=f"finish_reason is {reason}", finish_reason="error"
        )
        for reason in (
            *("error", "internal_error", "ERROR", "failed", "insufficient_system_resource", "engine_overloaded"),
            *("network_error", "exception"),
        )
    },
    "SGLang's own abort": stream(
        A,
        delta({}, {"type": "abort", "message": "out of memory", "status_code": 500}),
        error=ABORTED,
        says="abort: out of memory",
    ),
    "SGLang's own length": stream(A, delta({}, {"type": "length", "length": 1}), finish_reason="length"),
    **{
        reason: stream(A, delta({}, reason), DONE, finish_reason=name)
        for reason, name in {
            **{each: each for each in ("stop", "length", "tool_calls", "content_filter", "eos_token", "end_turn")},
            "STOP": "stop",
            "MAX_TOKENS": "max_tokens",
            "repetition_truncation": "other",
            "x" * 5000: "other",
        }.items()
    },
    "[DONE] does not finish an answer": stream(A, B, DONE, error=INCOMPLETE, says="without a finish_reason"),
    "neither": stream(A, B, error=INCOMPLETE),
    "nothing at all": stream(b": hello\n\n", error=INCOMPLETE),
    "[DONE] ends the stream": stream(A, STOP, DONE, event(error="too late"), A, output_tokens=1),
    "[DONE] after a space": stream(A, STOP, b"data:  [DONE] \n\n", output_tokens=1),
    "one of two choices": two(A, word("b", index=1), STOP, DONE, error=INCOMPLETE, says="1 of 2 choices"),
    "both choices": two(A, word("b", index=1), STOP, delta({}, "length", 1), DONE, output_tokens=2),
    "both choices in one event": two(
        event(choices=[{"index": place, "delta": {"content": "a"}} for place in (0, 1)]),
        event(choices=[{"index": place, "delta": {}, "finish_reason": "stop"} for place in (0, 1)]),
    ),
    "one after the other": two(A, STOP, word("b", index=1), delta({}, "stop", 1), DONE, output_tokens=2),
    "the second one never came": two(A, STOP, DONE, error=INCOMPLETE, says="1 of 2 choices"),
    "a second one that nobody wanted": stream(A, word("b", index=1), STOP, error=INCOMPLETE, says="1 of 2 choices"),
    "a whole answer aborted": whole(message(SAID, "abort"), ABORTED, "finish_reason is abort"),
    "a whole answer without a reason": whole(message(SAID, None, usage={"completion_tokens": 3}), output_tokens=3),
    "one of two whole choices": Case(
        answer(
            orjson.dumps(
                {"choices": [{"message": SAID, "finish_reason": "stop"}, {"message": SAID, "finish_reason": ""}]}
            )
        ),
        INCOMPLETE,
        "1 of 2 choices",
        body={"n": 2},
    ),
}

TOO_LONG = {"code": 400, "message": "prompt exceeds the context of 4096", "type": "exceed_context_size_error"}
WORDS = orjson.dumps(TOO_LONG)
ERRORS = {
    "error field of SSE": stream(b"error: " + WORDS + b"\n\n", DONE, error=FAILED, says="context of 4096", http=400),
    "error field in words": stream(A, b"error: out of memory\n\n", error=FAILED, says="out of memory"),
    "bare JSON": stream(b'{"error":' + WORDS + b"}", error=FAILED, says="context of 4096", http=400),
    "bare JSON of code and message": stream(A, WORDS + b"\n", error=FAILED, says="context of 4096"),
    "bare JSON over lines": stream(
        b'{\n  "error": {\n    "message": "worker died"\n  }\n}\n', error=FAILED, says="worker died"
    ),
    "bare JSON after the finish": stream(A, STOP, b'{"error":"worker died"}\n', error=FAILED, says="worker died"),
    "bare JSON behind other lines": stream(A, b'hello\n{"error":"worker died"}\n', error=FAILED, says="worker died"),
    "words": stream(A, b"upstream connect error\n", error=INCOMPLETE, says="upstream connect error"),
    "an event without an end": stream(
        A, b'data: {"error":{"message":"worker died"}}', error=FAILED, says="worker died"
    ),
    "event: error, in a comment": stream(
        A, b"event: error\n: prompt exceeds the context\n\n", DONE, error=FAILED, says="exceeds the context"
    ),
    "event: error, comment first": stream(A, b": worker died\nevent: error\n\n", error=FAILED, says="worker died"),
    "event: error, nothing else": stream(A, STOP, b"event: error\n\n", DONE, error=FAILED, says="without a word"),
    "event: error, in words": stream(A, b"event: error\ndata: worker died\n\n", error=FAILED, says="worker died"),
    "event: error, a JSON string": stream(
        A, b'event: error\ndata: "worker died"\n\n', error=FAILED, says="worker died"
    ),
    "event: error, an object": stream(A, b'event: error\ndata: {"message":"died"}\n\n', error=FAILED, says="died"),
    "event: error, a good chunk": stream(b"event: error\n" + A, STOP, error=FAILED),
    "event: response.failed": stream(A, b'event: response.failed\ndata: {"why":"x"}\n\n', STOP, error=FAILED, says="x"),
    "error after the text": stream(A, B, event(error={"message": "died"}), STOP, DONE, error=FAILED, says="died"),
    "error after the finish": stream(A, STOP, event(error={"message": "died"}), DONE, error=FAILED, says="died"),
    "error beside the finish": stream(A, delta({}, "stop", error={"message": "died"}), error=FAILED, says="died"),
    "error with choices: []": stream(event(choices=[], error="died"), error=FAILED, says="died"),
    "error of a choice": stream(
        A,
        event(choices=[{"index": 0, "delta": {}, "error": {"message": "died", "code": 502}}]),
        error=FAILED,
        says="died",
        http=502,
    ),
    "error of a delta": stream(A, delta({"error": "died"}), STOP, error=FAILED, says="died"),
    "error is a string": stream(event(error="out of memory"), DONE, error=FAILED, says="out of memory"),
    "error is true": stream(A, event(error=True), STOP, error=FAILED),
    "error is a list": stream(event(error=[{"msg": "one"}, {"msg": "two"}]), error=FAILED, says="one; two"),
    "errors in a list": stream(b'data: [{"id":1},{"error":"died"}]\n\n', error=FAILED, says="died"),
    "code and message": stream(b"data: " + WORDS + b"\n\n", DONE, error=FAILED, says="context of 4096", http=400),
    "code and detail": stream(A, event(code="too_long", detail="at most 4096"), error=FAILED, says="at most 4096"),
    "code as a string": stream(A, event(code="429", message="slow down"), error=FAILED, says="slow down", http=429),
    "status and message": stream(A, event(status=503, message="busy"), STOP, error=FAILED, says="busy", http=503),
    "error_code and error_msg": stream(event(error_code=336501, error_msg="QPS limit"), error=FAILED, says="QPS limit"),
    "object: error": stream(event(object="error", message="old form", code=40303), error=FAILED, says="old form"),
    "type: error": stream(event(type="error", message="overloaded"), error=FAILED, says="overloaded"),
    "success: false": stream(event(success=False, msg="no quota"), error=FAILED, says="no quota"),
    "message in message": stream(
        event(error={"error": {"message": {"detail": [{"msg": "deep"}]}}}), error=FAILED, says="deep"
    ),
    "very long words": stream(event(error="no " * 100_000), error=FAILED, says="no no no"),
    "a lone surrogate in the words": stream(b'data: {"error":"a \\ud835 b"}\n\n', error=FAILED, says="a"),
    "escapes in the words": stream(event(error="\x1b[31mred\x1b[0m"), error=FAILED, says="red"),
    **{
        f"no error: {json.decode()}": stream(b"data: " + json + b"\n\n", A, STOP, DONE, output_tokens=1)
        for json in (
            *(b'{"error":null,"choices":[]}', b'{"error":"","choices":[]}', b'{"error":{},"choices":[]}'),
            *(b'{"error":"null","choices":[]}', b'{"error":{"code":null,"message":null},"choices":[]}'),
            *(b'{"code":0,"message":"success"}', b'{"code":200,"msg":"ok"}', b'{"code":"0","message":"ok"}'),
            *(b'{"type":"ping"}', b'{"status":"loading","message":"loading the model"}', b'{"message":"queued"}'),
        )
    },
    "whole: code and message": whole(TOO_LONG, FAILED, "context of 4096", http=400),
    "whole: error beside choices": whole({**message(SAID), "error": {"message": "died"}}, FAILED, "died"),
    "whole: error of a choice": whole(
        {"choices": [{"message": {"content": ""}, "error": {"message": "died", "code": 502}}]}, FAILED, "died"
    ),
    "whole: a list": whole([{"error": {"message": "died", "code": 500}}], FAILED, "died"),
    "whole: a string": whole(b'"worker died"', ErrorType.NOT_JSON, "worker died"),
    "whole: no choices": whole({"choices": []}, ErrorType.NOT_JSON),
}

SOURCE = TokenSource
REASONING = {"completion_tokens_details": {"reasoning_tokens": 30}}
COUNTS = {
    "zeros": stream(
        A,
        B,
        C,
        STOP,
        usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
        DONE,
        output_tokens=3,
        prompt_tokens=None,
        token_source=SOURCE.CHUNKS_OVER_USAGE,
    ),
    "zeros, no text": stream(STOP, usage(prompt_tokens=0, completion_tokens=0), DONE, output_tokens=0),
    **{
        f"{bad!r}": stream(
            A,
            B,
            C,
            STOP,
            b"data: " + b'{"choices":[],"usage":{"completion_tokens":%b,"prompt_tokens":7}}' % bad + b"\n\n",
            output_tokens=3,
            prompt_tokens=7,
            token_source=SOURCE.CHUNKS,
        )
        for bad in (
            *(b"-1", b"-35", b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"1e400", b"3.5", b'"3"', b"[3]"),
            *(b"%d" % (2**40 + 1), b"9" * 300, b"9" * 5000, b"1e30", b"{}"),
        )
    },
    "floats": stream(
        A,
        STOP,
        usage(prompt_tokens=12.0, completion_tokens=5.0),
        output_tokens=5,
        prompt_tokens=12,
        token_source=SOURCE.USAGE,
    ),
    "2**40": stream(A, STOP, usage(completion_tokens=2**40), output_tokens=2**40),
    "the right one, then zeros": stream(
        A,
        B,
        word("c", "stop", usage={"prompt_tokens": 7, "completion_tokens": 4}),
        usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
        DONE,
        output_tokens=4,
        prompt_tokens=7,
        token_source=SOURCE.USAGE,
    ),
    "the right one, then nulls": stream(
        A,
        STOP,
        usage(prompt_tokens=7, completion_tokens=4),
        usage(prompt_tokens=None, completion_tokens=None),
        output_tokens=4,
        prompt_tokens=7,
    ),
    "the right one, then usage {}": stream(
        A, STOP, usage(completion_tokens=4), event(choices=[], usage={}), output_tokens=4
    ),
    "the right one, then a one": stream(
        A, B, C, STOP, usage(completion_tokens=4), usage(completion_tokens=1), output_tokens=4
    ),
    "zeros, then the right one": stream(
        word("a", usage={"completion_tokens": 0}),
        B,
        C,
        STOP,
        usage(prompt_tokens=7, completion_tokens=3),
        output_tokens=3,
        token_source=SOURCE.USAGE,
    ),
    "zeros on every chunk": stream(
        *(word(each, usage={"prompt_tokens": 0, "completion_tokens": 0}) for each in "abc"),
        STOP,
        output_tokens=3,
        token_source=SOURCE.CHUNKS_OVER_USAGE,
    ),
    "twice": stream(
        A, B, word("c", "stop", usage={"completion_tokens": 3}), usage(completion_tokens=3), output_tokens=3
    ),
    "prompt first, output last": stream(
        word("a", usage={"prompt_tokens": 7, "completion_tokens": 0}),
        B,
        STOP,
        usage(prompt_tokens=0, completion_tokens=2),
        output_tokens=2,
        prompt_tokens=7,
    ),
    "in the first chunk": stream(
        delta({"role": "assistant"}, usage={"prompt_tokens": 7, "completion_tokens": 3}),
        A,
        B,
        C,
        STOP,
        output_tokens=3,
        prompt_tokens=7,
        token_source=SOURCE.CHUNK_USAGE,
    ),
    "one in the first chunk of many": stream(
        word("a", usage={"prompt_tokens": 7, "completion_tokens": 1}),
        *[B] * 49,
        STOP,
        output_tokens=50,
        prompt_tokens=7,
        token_source=SOURCE.CHUNKS_OVER_USAGE,
    ),
    "1 where 50 chunks came": stream(
        *[A] * 50,
        STOP,
        usage(prompt_tokens=7, completion_tokens=1, total_tokens=8),
        output_tokens=50,
        token_source=SOURCE.CHUNKS_OVER_USAGE,
    ),
    "the tokens of each chunk alone": stream(
        *(word(each, usage={"completion_tokens": 1}) for each in "abc"),
        STOP,
        output_tokens=3,
        token_source=SOURCE.CHUNKS_OVER_USAGE,
    ),
    "a total that the chunks bear out": stream(
        *[A] * 30,
        STOP,
        usage(prompt_tokens=7, completion_tokens=2, total_tokens=39),
        output_tokens=32,
        token_source=SOURCE.USAGE_TOTAL,
    ),
    "reasoning counted beside": stream(
        A,
        B,
        STOP,
        usage(prompt_tokens=7, completion_tokens=2, total_tokens=39, **REASONING),
        output_tokens=32,
        reasoning_tokens=30,
        token_source=SOURCE.USAGE_PLUS_REASONING,
    ),
    "reasoning counted beside, no total": stream(
        A,
        B,
        STOP,
        usage(prompt_tokens=7, completion_tokens=2, **REASONING),
        output_tokens=32,
    ),
    "reasoning counted inside": stream(
        A,
        B,
        STOP,
        usage(prompt_tokens=7, completion_tokens=32, total_tokens=39, **REASONING),
        output_tokens=32,
        reasoning_tokens=30,
        token_source=SOURCE.USAGE,
    ),
    "reasoning counted beside, at the top": stream(
        A, STOP, usage(prompt_tokens=7, completion_tokens=9, total_tokens=20, reasoning_tokens=4), output_tokens=13
    ),
    "a total of something else": stream(
        A,
        B,
        STOP,
        usage(prompt_tokens=7, completion_tokens=2, total_tokens=50),
        output_tokens=2,
        token_source=SOURCE.USAGE_DISPUTED,
    ),
    "a total of zero": stream(
        A,
        B,
        STOP,
        usage(prompt_tokens=7, completion_tokens=2, total_tokens=0),
        output_tokens=2,
        token_source=SOURCE.USAGE,
    ),
    "cached tokens counted beside": stream(
        A,
        B,
        STOP,
        usage(prompt_tokens=7, completion_tokens=2, total_tokens=109, prompt_tokens_details={"cached_tokens": 100}),
        output_tokens=2,
        prompt_tokens=107,
        cached_tokens=100,
        token_source=SOURCE.USAGE,
    ),
    "usage is a list": stream(A, event(choices=[], usage=[1, 2]), STOP, output_tokens=1, token_source=SOURCE.CHUNKS),
    "whole: zeros": whole(
        message(SAID, usage={"prompt_tokens": 0, "completion_tokens": 0}), output_tokens=None, token_source=SOURCE.NONE
    ),
    "whole: minus one": whole(message(SAID, usage={"completion_tokens": -1}), output_tokens=None),
    "whole: reasoning beside": whole(
        message(SAID, usage={"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 39, **REASONING}),
        output_tokens=32,
    ),
}


def parts(*each: dict[str, Any]) -> bytes:
    """Return the event of content that is a list of parts."""
    return delta({"content": list(each)})


def call(**function: str) -> bytes:
    """Return the event of a piece of a tool call."""
    return delta({"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": function}]})


NOTHING = delta({"role": "assistant", "content": None})
TEXT = {  # each has two chunks with text
    "refusal": stream(ROLE, delta({"refusal": "No"}), delta({"refusal": "."}), STOP, chunks=2),
    "text parts": stream(
        ROLE, parts({"type": "text", "text": ""}), parts({"type": "text", "text": "Hm"}), B, STOP, chunks=2
    ),
    "thinking parts": stream(
        *(parts({"type": "thinking", "thinking": [{"type": "text", "text": each}]}) for each in ("", "hm", "hm")),
        STOP,
        chunks=2,
    ),
    "an empty list": stream(ROLE, parts(), A, B, STOP, chunks=2),
    "strings in a list": stream(delta({"content": [""]}), delta({"content": ["a"]}), B, STOP, chunks=2),
    "a part that is an object": stream(delta({"content": {"type": "text", "text": "a"}}), B, STOP, chunks=2),
    "an image part": stream(parts({"type": "image_url", "image_url": {"url": "x"}}), A, B, STOP, chunks=2),
    "reasoning": stream(
        delta({"reasoning": "hm"}), delta({"reasoning_content": "hm", "content": None}), STOP, chunks=2
    ),
    "reasoning that is an object": stream(delta({"reasoning": {"content": "hm"}}), A, STOP, chunks=2),
    "reasoning_details": stream(
        delta({"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), A, STOP, chunks=2
    ),
    "encrypted reasoning": stream(
        delta({"reasoning_details": [{"type": "reasoning.encrypted", "data": "abc"}]}), A, B, STOP, chunks=2
    ),
    "a call without arguments": stream(ROLE, call(name="now", arguments=""), A, delta({}, "tool_calls"), chunks=2),
    "a call with arguments": stream(
        call(name="add", arguments=""), call(arguments="{"), delta({}, "tool_calls"), chunks=2
    ),
    "an id is not text": stream(delta({"tool_calls": [{"index": 0, "id": "x"}]}), A, B, STOP, chunks=2),
    "arguments that are an object": stream(
        delta({"tool_calls": [{"function": {"arguments": {"a": 1}}}]}), A, delta({}, "tool_calls"), chunks=2
    ),
    "a custom tool": stream(delta({"tool_calls": [{"custom": {"name": "sh", "input": ""}}]}), A, STOP, chunks=2),
    "function_call": stream(
        delta({"function_call": {"name": "now"}}), delta({"function_call": {"arguments": "{}"}}), STOP, chunks=2
    ),
    "transcripts": stream(
        delta({"audio": {"id": "x"}}),
        delta({"audio": {"transcript": ""}}),
        delta({"audio": {"transcript": "Hi"}}),
        delta({"audio": {"data": "AAAA"}}),
        STOP,
        chunks=2,
    ),
    "completions": stream(
        *(event(choices=[{"index": 0, "text": each, "finish_reason": None}]) for each in ("", "a", "b")),
        event(choices=[{"index": 0, "text": "", "finish_reason": "stop"}]),
        chunks=2,
    ),
    "messages instead of deltas": stream(
        *(event(choices=[{"index": 0, "message": {"content": each}}]) for each in "ab"), STOP, chunks=2, output_tokens=2
    ),
    "a message that repeats the deltas": stream(
        A,
        B,
        event(choices=[{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]),
        chunks=2,
    ),
    "a delta of null beside text": stream(
        *(event(choices=[{"index": 0, "delta": None, "text": each}]) for each in "ab"), STOP, chunks=2
    ),
    "a second choice's text": stream(
        *(event(choices=[{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": each}}]) for each in "ab"),
        event(choices=[{"index": place, "delta": {}, "finish_reason": "stop"} for place in (0, 1)]),
        chunks=2,
    ),
}

UNKNOWN = ErrorType.UNKNOWN_TEXT
TEXTLESS = {
    "a whole message in a stream": stream(
        event(**message(SAID)), DONE, output_tokens=None, token_source=SOURCE.NONE, chunks=1
    ),
    "a whole message in a stream, counted": stream(
        event(**message(SAID, usage={"completion_tokens": 4})), DONE, output_tokens=4, chunks=1
    ),
    "an empty answer": stream(ROLE, STOP, usage(completion_tokens=1), chunks=0, output_tokens=1),
    "a field that is not known": stream(
        delta({"answer": "Hi"}), delta({"answer": "!"}), STOP, DONE, error=UNKNOWN, says="delta.answer"
    ),
    "the same, counted": stream(
        NOTHING, delta({"answer": "Hi"}), STOP, usage(completion_tokens=9), error=UNKNOWN, says="delta.answer"
    ),
    "a field of a choice": stream(
        event(choices=[{"index": 0, "content": "Hi"}]), STOP, error=UNKNOWN, says="choices[].content"
    ),
    "Ollama's own": stream(event(model="m", response="Hi", done=False), error=UNKNOWN, says="response"),
    "Ollama's own chat": stream(
        event(model="m", message={"role": "assistant", "content": "Hi"}, done=False), error=UNKNOWN, says="message"
    ),
    "llama.cpp's own": stream(event(content="Hi", stop=False), error=UNKNOWN, says="content"),
    "Anthropic's": stream(
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"t","text":"Hi"}}\n\n',
        error=UNKNOWN,
        says="delta",
    ),
    "the Responses API": stream(
        event(type="response.output_text.delta", delta="Hi"), DONE, error=UNKNOWN, says="delta"
    ),
    "Gemini's": stream(event(candidates=[{"content": {"parts": [{"text": "Hi"}]}}]), error=UNKNOWN, says="candidates"),
    "bare chunks": stream(A[6:], STOP[6:], error=UNKNOWN, says="without `data:`"),
    "known in the end": stream(delta({"answer": "Hi"}), A, STOP, chunks=1),
}


def raw(content: bytes) -> bytes:
    """Return the event of a piece of text as bytes of JSON."""
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n' % content


def encoded(*encodings: bytes, body: bytes = A + STOP + DONE, status: bytes = b"200 OK") -> bytes:
    """Return an answer with these Content-Encoding headers; its body is as given."""
    lines = b"".join(b"Content-Encoding: %b\r\n" % each for each in encodings)
    head = b"HTTP/1.1 %b\r\nContent-Type: text/event-stream\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, lines, len(body)) + body


def of_no_type(body: bytes) -> bytes:
    """Return an answer without a content type."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
BOM = b"\xef\xbb\xbf"
BYTES = {
    "half a character": stream(A, raw(b"\xf0\x9f"), raw(b"\x98\x80"), C, STOP, DONE, output_tokens=4),
    "broken UTF-8": stream(*[raw(b"\xff\xfe")] * 3, STOP, output_tokens=3),
    "the same after known frames": stream(A, B, C, raw(b"\xc3"), raw(b"\xa9"), A, STOP, output_tokens=6),
    "Latin-1 in a field": stream(A.replace(b"{", b'{"model":"caf\xe9",', 1), B, STOP, output_tokens=2),
    "half a surrogate pair": stream(raw(b"\\ud83d"), raw(b"\\ude00"), raw(b"\\ud835"), STOP, output_tokens=3),
    "half a pair in a name": stream(A.replace(b"{", b'{"\\ud83d":1,', 1), STOP, output_tokens=1),
    **{
        f"{value.decode()} in logprobs": stream(
            A.replace(b'"finish_reason"', b'"logprobs":{"content":[{"logprob":%b}]},"finish_reason"' % value),
            B,
            STOP,
            output_tokens=2,
        )
        for value in (b"NaN", b"Infinity", b"-Infinity", b"-1e999", b"-9999.0")
    },
    "NaN in a whole answer": whole(
        b'{"choices":[{"message":{"content":"a"},"logprobs":NaN,"finish_reason":"stop"}],"usage":{"completion_tokens":1}}',
        output_tokens=1,
    ),
    "no UTF-8 in a whole answer": whole(
        b'{"choices":[{"message":{"content":"\xff"},"finish_reason":"stop"}],"usage":{"completion_tokens":1}}',
        output_tokens=1,
    ),
    "a mark before a whole answer": whole(
        BOM + b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"completion_tokens":1}}',
        output_tokens=1,
    ),
    "a mark before the stream": stream(BOM + A, B, STOP, DONE, output_tokens=2),
    "a mark before each value": stream(*(b"data: " + BOM + each[6:] for each in (A, B, STOP)), output_tokens=2),
    "CRLF": stream(*(each.replace(b"\n", b"\r\n") for each in (A, B, STOP, DONE)), output_tokens=2),
    "CR": stream(*(each.replace(b"\n", b"\r") for each in (A, B, STOP, DONE)), output_tokens=2),
    "all three": stream(
        A.replace(b"\n\n", b"\r\n\n"), B.replace(b"\n\n", b"\n\r\n"), STOP.replace(b"\n\n", b"\r\r"), output_tokens=2
    ),
    "a line feed apart from its return": stream(A[:-2] + b"\r", b"\n\r", b"\n" + B, STOP, output_tokens=2),
    "U+2028 and U+0085": stream(word("a\u2028b"), word("a\u0085b"), STOP, output_tokens=2),
    "a raw tab": stream(A, raw(b"a\tb"), STOP, error=ErrorType.NOT_JSON, says="not JSON"),
    "an event over lines": stream(
        b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"a"}}]}\n\n', STOP, output_tokens=1
    ),
    "nested too deeply": stream(b"data: " + b"[" * 5000 + b"]" * 5000 + b"\n\n", error=ErrorType.NOT_JSON),
    **{
        f"Content-Encoding {name.decode()}": Case(encoded(name), record={"output_tokens": 1})
        for name in (b"identity", b"none", b"None", b"utf-8", b"UTF-8", b"identity, none", b"chunked", b"")
    },
    **{
        f"Content-Encoding {name.decode()}": Case(
            encoded(name, body=GZIP), ErrorType.CONTENT_TYPE, f"Content-Encoding {name.decode().lower()}"
        )
        for name in (b"gzip", b"br", b"deflate", b"zstd", b"GZIP", b"x-gzip")
    },
    "encoded twice": Case(encoded(b"none", b"gzip", body=GZIP), ErrorType.CONTENT_TYPE, "gzip"),
    "an error in gzip": Case(
        encoded(b"gzip", body=GZIP, status=b"503 Busy"), ErrorType.HTTP_SERVER_ERROR, "HTTP 503: a body in gzip"
    ),
    "no type, events": Case(of_no_type(A + STOP + DONE), record={"output_tokens": 1}),
    "no type, a mark, events": Case(of_no_type(BOM + A + STOP), record={"output_tokens": 1}),
    "no type, an object": Case(
        of_no_type(orjson.dumps(message(SAID, usage={"completion_tokens": 2}))),
        record={"output_tokens": 2, "chunks": 0},
    ),
    "no type, words": Case(of_no_type(b"sorry"), ErrorType.CONTENT_TYPE, "sorry"),
}

KINDS = {"finished": FINISHED, "errors": ERRORS, "counts": COUNTS, "text": TEXT, "textless": TEXTLESS, "bytes": BYTES}
CASES = {f"{kind}: {name[:60]} {len(name)}": case for kind, cases in KINDS.items() for name, case in cases.items()}


def facts(record: RequestRecord) -> dict[str, Any]:
    """Return what two clients must agree on: everything but moments."""
    error = record.error
    return {
        "outcome": record.outcome,
        "error": error and error.type,
        "message": error and error.message,
        "http": error and error.http_status,
        "finish_reason": record.finish_reason,
        "chunks": record.chunks,
        "textless": None if record.textless_ns is None else len(record.textless_ns),
        "chunk_tokens": None if record.chunk_tokens is None else record.chunk_tokens.tolist(),
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "cached_tokens": record.cached_tokens,
        "reasoning_tokens": record.reasoning_tokens,
        "token_source": record.token_source,
    }
