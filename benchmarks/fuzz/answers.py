"""
Readers of what engines send: streams, HTTP, whole answers, JSON, errors, metric pages.

Three readings of the bytes of a stream are compared: whole, cut anywhere, and by the fast path, which recognizes an
event by its frame. None may raise, and none may count differently.
"""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httptools
import orjson

from benchmarks import ROOT
from benchmarks.fuzz.reader import Input, Reader, RefusedError
from llmload.client import answer, api, chunk_fields, errors, http_response, json_text, sse, token_counts
from llmload.client.answer import StreamState
from llmload.client.api import ChatStream, TgiStream
from llmload.client.errors import AttemptError
from llmload.client.http_response import Response, error_of_body, form_of
from llmload.client.settings import FOREVER_NS
from llmload.client.sse import Decoder, EventDecoder
from llmload.client.token_counts import MAX_COUNT
from llmload.prometheus import pages
from llmload.record import FINISH_REASONS, ErrorType, RequestError

SAMPLES: Final = ROOT / "tests" / "client" / "streams"
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
KINDS: Final[tuple[Callable[[], StreamState], ...]] = (ChatStream, TgiStream)
_CUTS: Final = 8
"""How many bytes of an input say where to cut it."""
_MOST_SAID: Final = 1_000
"""Characters of an error."""


def pieces_of(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return the stream in pieces, cut after every event and at each of `cuts`, in 255ths of its length."""
    ends = {at + 2 for at in range(len(stream)) if stream.startswith(b"\n\n", at)}
    ends |= {cut * len(stream) // 255 for cut in cuts}
    inner = sorted(ends - {0, len(stream)})
    return [stream[start:end] for start, end in zip([0, *inner], [*inner, len(stream)], strict=True)]


def cuts_in(data: bytes) -> bytes:
    """Return where to cut an input: by its own bytes, so that an input alone says what is read."""
    return data[len(data) // 2 :][:_CUTS]


def outcome_of(answer: StreamState, *, moments: bool) -> tuple[Any, ...]:
    """Return everything that was read of an answer; its stamps only where they can be compared."""
    stamps = answer.chunk_ns.tolist() if moments else len(answer.chunk_ns)
    error = None if answer.error is None else (answer.error.type, answer.error.message)
    failure = answer.failure(None, ended=True)
    return stamps, answer.counts(), answer.finish_reason, answer.finished, answer.saw_done, error, failure


def decoded(answer: StreamState, pieces: Sequence[bytes]) -> StreamState:
    """Read the pieces event by event."""
    decoder = EventDecoder()
    try:
        for moment, piece in enumerate(pieces):
            for kind, data in decoder.feed(piece):
                answer.take_event(moment, kind, data)
        for kind, data in decoder.finish():
            answer.take_event(0, kind, data)
    except AttemptError as error:
        answer.fail(error.error)
    return answer


def by_frames(answer: StreamState, pieces: Sequence[bytes]) -> StreamState:
    """Read the pieces as the client does, each as one HTTP chunk."""
    response = Response()
    decoder = Decoder(response, answer)
    response.feed(HEAD, 0)
    try:
        for moment, piece in enumerate(pieces):
            if piece:
                response.feed(b"%x\r\n%s\r\n" % (len(piece), piece), moment)
        while response.raw or response.body:
            decoder.advance(FOREVER_NS)
        decoder.end()
    except AttemptError as error:
        answer.fail(error.error)
    return answer


def check_events(given: Input, _: Path) -> None:
    """Read a body of events in three ways; AssertionError where they differ, or where something is out of bounds."""
    pieces = pieces_of(given.data, cuts_in(given.data))
    refused = True
    for kind in KINDS:
        cut = decoded(kind(), pieces)
        if outcome_of(cut, moments=False) != outcome_of(decoded(kind(), [given.data]), moments=False):
            raise AssertionError("a stream gives another result when it is cut")
        if outcome_of(cut, moments=True) != outcome_of(by_frames(kind(), pieces), moments=True):
            raise AssertionError("a stream gives another result on the fast path")
        refused &= check_answer(cut)
    if refused:
        raise RefusedError


def read_http(pieces: Sequence[bytes]) -> tuple[Any, ...]:
    """Return what was read of a response in pieces: status, whether it is complete, body, whether it is not HTTP."""
    response = Response()
    broken = False
    try:
        for moment, piece in enumerate(pieces, start=1):
            response.feed(piece, moment)
            while response.raw:
                response.parse()
            if response.complete:
                break
    except httptools.HttpParserError:
        broken = True
    return response.status, response.complete, b"".join(response.body), broken


def check_http(given: Input, _: Path) -> None:
    """Read a chunked response in one piece, cut, and byte by byte; AssertionError where they differ."""
    stream = HEAD + given.data
    whole = read_http([stream])
    if read_http(pieces_of(stream, cuts_in(given.data))) != whole:
        raise AssertionError("a response gives another result when it is cut")
    if read_http([stream[at : at + 1] for at in range(len(stream))]) != whole:
        raise AssertionError("a response gives another result byte by byte")
    if whole[-1]:
        raise RefusedError


def check_whole(given: Input, _: Path) -> None:
    """Read an answer in one piece by each API."""
    refused = True
    for kind in KINDS:
        state = kind()
        try:
            state.take_whole(given.data)
        except AttemptError as error:
            state.fail(error.error)
        refused &= check_answer(state)
    if refused:
        raise RefusedError


def check_json(given: Input, _: Path) -> None:
    """Read JSON text as clients do, and look for text, reasons, counts, fields and errors in whatever it is."""
    try:
        value = json_text.loads(given.data)
    except json_text.UNREADABLE:
        raise RefusedError from None
    if orjson_takes(given.data) and json_text.loads(b" " + given.data) != value:
        raise AssertionError("a value differs by a blank before it")
    inner = list(value.values())[:50] if isinstance(value, dict) else [value]
    for each in (value, *inner):
        chunk_fields.text_in(each)
        reason, _failure = chunk_fields.finish_of(each)
        if reason is not None and reason not in FINISH_REASONS:
            raise AssertionError(f"a finish_reason that is none of ours: {reason!r}")
        errors.error_message(each)
        if isinstance(each, dict):
            check_error(errors.error_in_object(each))
            check_counts(each)


def orjson_takes(data: bytes) -> bool:
    """Return whether the strict decoder reads it."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def check_error_body(given: Input, _: Path) -> None:
    """Read the bytes as the body of errors, and their first line as headers that an engine may send."""
    words = given.data.partition(b"\n")[0].decode("latin-1")
    for status, content_type, encoding in ((200, words, ""), (200, "", words), (429, "", ""), (503, words, words)):
        form_of(status, content_type, encoding, given.data)
        check_error(error_of_body(status, content_type, encoding, given.data, words))


def check_page(given: Input, _: Path) -> None:
    """Read a page of metrics; what is read is finite."""
    text = given.data.decode("utf-8", "replace")
    for figures, by in ((pages.ENGINE, ""), (pages.GPU, "gpu")):
        for figure in pages.read_page(text, figures, by).parts.values():
            if not all(map(math.isfinite, figure.values())):
                raise AssertionError(f"a figure that is not finite: {figure}")


def check_answer(state: StreamState) -> bool:
    """Check the bounds of what was read of an answer; return whether it failed."""
    fields = state.record_fields()
    if fields["finish_reason"] not in {None, *FINISH_REASONS}:
        raise AssertionError(f"a finish_reason that is none of ours: {fields['finish_reason']!r}")
    for name, value in fields.items():
        if name.endswith("_tokens") and isinstance(value, int) and not 0 <= value <= MAX_COUNT:
            raise AssertionError(f"a count out of bounds: {name} {value}")
    failure = state.failure(None, ended=True)
    check_error(failure)
    return failure is not None


def check_counts(usage: dict[str, Any]) -> None:
    """Take the object as usage, alone and in a chunk."""
    state = ChatStream()
    with suppress(AttemptError):  # it is too large
        state.take_event(1, b"", json.dumps({"choices": [], "usage": usage}).encode())
    check_answer(state)


def check_error(error: RequestError | None) -> None:
    """Check that an error can be a line of a run's files: bounded, printable, in UTF-8."""
    if error is None:
        return
    orjson.dumps(error.message)
    if len(error.message) > _MOST_SAID or "\n" in error.message or not isinstance(error.type, ErrorType):
        raise AssertionError(f"an error of {len(error.message)} characters: {error.message[:200]!r}")


def _streams() -> dict[str, bytes]:
    """Return the bodies of streams of real engines."""
    return {file.stem: _body(file) for file in sorted(SAMPLES.glob("*.sse"))}


def _body(file: Path) -> bytes:
    sent = file.read_bytes()
    return sent.partition(b"\r\n\r\n")[2] if sent.startswith(b"HTTP/") else sent


def _events(_: Path) -> list[Input]:
    return [Input(f"{name}.sse", sent) for name, sent in _streams().items()]


def _chunked(_: Path) -> list[Input]:
    pieces = {
        name: [piece for piece in pieces_of(sent, range(0, 255, 32)) if piece] for name, sent in _streams().items()
    }
    chunks = {name: b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in cut) for name, cut in pieces.items()}
    return [Input(f"{name}.http", sent + b"0\r\n\r\n") for name, sent in chunks.items()]


def _wholes(_: Path) -> list[Input]:
    tgi = {"generated_text": "Hello", "details": {"finish_reason": "length", "generated_tokens": 2, "prefill": []}}
    wholes = [Input(file.name, _body(file)) for file in sorted(SAMPLES.glob("*.json"))]
    return [*wholes, Input("tgi.json", orjson.dumps([tgi]))]


def _values(folder: Path) -> list[Input]:
    lines = [line for sent in _streams().values() for line in sent.split(b"\n") if line.startswith(b"data: {")]
    chunks = {line.removeprefix(b"data: ").strip() for line in lines}
    odd = {"error": {"message": ["no", {"msg": "room"}], "code": "429"}, "detail": [{"msg": "no"}], "object": "error"}
    return [
        *_wholes(folder),
        Input("odd.json", orjson.dumps(odd)),
        *(Input("chunk.json", each) for each in sorted(chunks)),
    ]


_ERRORS: Final = (
    b'120\n{"error": {"message": "too many requests", "code": 429}}',
    b"Fri, 27 Nov 2026 10:00:00 GMT\n<html><head><title>502 Bad Gateway</title></head><body>no</body></html>",
    b"gzip, br\nsorry",
    b'application/json; charset=utf-8\n{"detail": [{"loc": ["body"], "msg": "field required"}]}',
)
_PAGE: Final = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m\\"x\\\\"} 3.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 12345.0 1711843199000
vllm:time_to_first_token_seconds_bucket{le="0.01",model_name="m"} 7.0 # {trace_id="a"} 0.005 1711843199.5
vllm:time_to_first_token_seconds_sum{model_name="m"} 1.5
vllm:time_to_first_token_seconds_count{model_name="m"} 9.0
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",device="nvidia0"} 93
DCGM_FI_DEV_FB_USED{gpu="1"} NaN
# EOF
"""


def _error_bodies(_: Path) -> list[Input]:
    return [Input("error", body) for body in _ERRORS]


def _pages(_: Path) -> list[Input]:
    return [Input("page", _PAGE)]


_STREAM: Final = (answer, api, chunk_fields, errors, http_response, json_text, sse, token_counts)
READERS: Final = (
    Reader("events of an answer", _events, check_events, _STREAM, 1 << 16),
    Reader("HTTP of an answer", _chunked, check_http, (http_response,), 1 << 14),
    Reader("answer in one piece", _wholes, check_whole, _STREAM),
    Reader("JSON text, chunk fields", _values, check_json, (json_text, chunk_fields, errors, token_counts)),
    Reader("body of an error", _error_bodies, check_error_body, (errors, http_response), 1 << 16),
    Reader("page of metrics", _pages, check_page, (pages,), 1 << 16),
)
