"""How every client handles what engines send: one suite for all clients."""

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmload.client import ClientKind
from llmload.client.settings import ClientSettings, Timeouts
from llmload.record import ErrorType, Outcome, RequestRecord, StampSource, TokenSource
from tests.best_stamps import BEST_STAMPS
from tests.client.engine_streams import CASES, facts
from tests.client.scripted_server import EVENTS_HEAD, ScriptedServer, answer, chunk, chunked

STREAMS = Path(__file__).parent / "streams"
Serve = Callable[..., ScriptedServer]
Patched = Callable[..., Any]

pytestmark = pytest.mark.parametrize("kind", ["wire", "openai"])


def settings(server: ScriptedServer, **more: Any) -> ClientSettings:
    return ClientSettings(base_urls=(server.url,), model="m", **more)


def event(**chunk: Any) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def text(content: str, finish_reason: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}])


DONE = b"data: [DONE]\n\n"
FINE = EVENTS_HEAD + chunked(text("Hi"), text("!", "stop"), DONE)
WHOLE = {"choices": [{"message": {"content": "Hi!"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}


def captured(name: str) -> bytes:
    """Return the body of a captured stream: some were captured with their head, de-chunked."""
    data = (STREAMS / name).read_bytes()
    return data.partition(b"\r\n\r\n")[2] if data.startswith(b"HTTP/") else data


CAPTURES = {  # name: chunks with text, output tokens, prompt tokens, cached tokens, source, finish_reason
    "vllm_chat_stream.sse": (7, 8, 37, None, TokenSource.USAGE, "stop"),
    "vllm_chat_stream_continuous_usage.sse": (7, 8, 37, None, TokenSource.USAGE, "stop"),
    "hf_chat_stream.sse": (7, 8, 37, None, TokenSource.USAGE, "stop"),
    "hf_cb_chat_stream.sse": (7, 8, 37, None, TokenSource.USAGE, "stop"),
    "hf_chat_stream_nousage.sse": (7, 8, 37, None, TokenSource.USAGE, "stop"),
    "llamacpp_chat_stream.sse": (8, 8, 34, 33, TokenSource.USAGE, "length"),
    "llamacpp_chat_stream_nousage.sse": (8, 8, None, None, TokenSource.CHUNKS, "length"),
    "tgi_chat_stream.reconstructed.sse": (2, 3, 39, None, TokenSource.USAGE, "stop"),
}


def split(data: bytes, how: str) -> list[bytes]:
    if how == "whole":
        return [data]
    if how == "bytes":
        return [data[at : at + 1] for at in range(len(data))]
    dice = random.Random(7)  # noqa: S311 - no secret
    cuts = sorted(dice.sample(range(1, len(data)), 25))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("how", ["whole", "bytes", "random"])
@pytest.mark.parametrize("name", CAPTURES)
def test_captured_streams_are_decoded_however_they_are_cut(
    kind: ClientKind, name: str, how: str, serve: Serve, patched: Patched
) -> None:
    server = serve(["read", EVENTS_HEAD, *split(chunked(captured(name)), how), "hold"])

    [record] = patched("complete", settings(server), kind)

    assert record.error is None
    found = (
        len(record.chunk_ns),
        record.output_tokens,
        record.prompt_tokens,
        record.cached_tokens,
        record.token_source,
        record.finish_reason,
    )
    assert found == CAPTURES[name]
    assert record.outcome is Outcome.COMPLETED
    assert record.started_ns < record.chunk_ns[0] <= record.chunk_ns[-1] <= record.done_ns


def test_usage_on_every_chunk_counts_the_tokens_of_each(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", EVENTS_HEAD, chunked(captured("vllm_chat_stream_continuous_usage.sse"))])

    [record] = patched("complete", settings(server), kind)

    assert record.chunk_tokens.tolist() == [1, 1, 1, 1, 1, 1, 1]


def test_usage_on_chunks_counts_if_the_answer_breaks_off(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    part = b"\n\n".join(captured("vllm_chat_stream_continuous_usage.sse").split(b"\n\n")[:4]) + b"\n\n"
    server = serve(["read", EVENTS_HEAD, chunk(part)])

    [record] = patched("complete", settings(server), kind)

    assert record.error.type is ErrorType.INCOMPLETE
    assert (record.output_tokens, record.token_source) == (3, TokenSource.CHUNK_USAGE)
    assert len(record.chunk_ns) == 3


@pytest.mark.parametrize("name", ["vllm_chat.json", "hf_chat.json"])
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_in_one_piece_is_accepted(
    kind: ClientKind, name: str, stream: bool, serve: Serve, patched: Patched
) -> None:
    server = serve(["read", answer(captured(name)), "hold"])

    [record] = patched("complete", settings(server, stream=stream), kind)

    assert record.ok
    assert (record.output_tokens, record.prompt_tokens, record.finish_reason) == (8, 37, "stop")
    assert record.ttft_s is None
    assert len(record.chunk_ns) == 0


CHUNKS_WITH_TEXT = {
    "content": {"content": "a"},
    "reasoning_content": {"reasoning_content": "a", "content": None},
    "reasoning": {"reasoning": "a"},
    "tool_call": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
    "null_reasoning": {"content": "a", "reasoning_content": None},
}


@pytest.mark.parametrize("delta", CHUNKS_WITH_TEXT.values(), ids=list(CHUNKS_WITH_TEXT))
def test_content_reasoning_and_arguments_are_text(
    kind: ClientKind, delta: dict[str, Any], serve: Serve, patched: Patched
) -> None:
    role = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    said = event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
    end = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    server = serve(["read", EVENTS_HEAD, chunked(role, said, said, end, DONE), "hold"])

    [record] = patched("complete", settings(server), kind)

    assert len(record.chunk_ns) == 2
    assert (record.output_tokens, record.token_source) == (2, TokenSource.CHUNKS)


def test_reasoning_tokens_are_reported_and_not_added(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}
    server = serve(["read", EVENTS_HEAD, chunked(text("a", "stop"), event(choices=[], usage=usage), DONE), "hold"])

    [record] = patched("complete", settings(server), kind)

    assert (record.output_tokens, record.reasoning_tokens) == (9, 4)


GRAMMAR = {
    "no space": b"data:%b\n\n",
    "two newlines are crlf": b"data: %b\r\n\r\n",
    "comment": b": keep-alive\n\ndata: %b\n\n",
    "event and id": b"event: message\nid: 7\ndata: %b\n\n",
    "trailing space": b"data: %b \n\n",
}


@pytest.mark.parametrize("form", GRAMMAR.values(), ids=list(GRAMMAR))
def test_every_spelling_of_events_is_decoded(kind: ClientKind, form: bytes, serve: Serve, patched: Patched) -> None:
    chunks = [text("a\u2028b"), text("\u00e9\U0001f600"), text("c", "stop")]
    events = [form % one[6:-2] for one in chunks]
    server = serve(["read", EVENTS_HEAD, chunked(b"".join(events), DONE), "hold"])

    [record] = patched("complete", settings(server), kind)

    assert record.error is None
    assert len(record.chunk_ns) == 3


def test_no_text_at_all_is_an_answer_without_first_token(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    end = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage={"completion_tokens": 0})
    server = serve(["read", EVENTS_HEAD, chunked(end, DONE), "hold"])

    [record] = patched("complete", settings(server), kind)

    assert record.ok
    assert (record.output_tokens, record.ttft_s, record.tpot_s) == (0, None, None)


@pytest.mark.timing
def test_stamps_match_the_servers(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    first, second, last = EVENTS_HEAD + chunk(text("a")), chunk(text("b")), chunk(text("c", "stop"))
    server = serve(["read", 0.05, first, 0.03, second, 0.03, last, 0.02, chunked(DONE), "hold"])

    [record] = patched("complete", settings(server), kind)

    near = 0.001 if kind == "wire" else 0.1  # the SDK stamps when it gets round to it
    for arrived_ns, sent_ns in zip(record.chunk_ns, server.sent_ns, strict=False):
        assert arrived_ns == pytest.approx(sent_ns, abs=near * 1e9)
    assert record.done_ns == pytest.approx(server.sent_ns[3], abs=near * 1e9)
    assert record.stamp_source is (BEST_STAMPS if kind == "wire" else StampSource.USER)


def test_the_request_has_the_settings_fields_and_no_others(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "hold"])

    body = {"max_tokens": 5, "temperature": 0.0, "stream_options": {"continuous_usage_stats": True}}
    patched("complete", settings(server, body=body, api_key="sk-1", headers={"X-Mine": "yes"}), kind)

    head, _, sent = server.requests[0].partition(b"\r\n\r\n")
    assert orjson.loads(sent) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Say hello."}],
        "stream": True,
        "max_tokens": 5,
        "temperature": 0.0,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /v1/chat/completions http/1.1"
    assert {"x-request-id: 0-0", "authorization: bearer sk-1", "x-mine: yes"} <= set(lines)


@pytest.mark.parametrize("prepared", [True, False])
def test_each_salt_precedes_the_first_message(kind: ClientKind, prepared: bool, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "read", FINE, "hold"])

    patched("complete", settings(server), kind, times=2, prepared=prepared, salts=("s1", "s2"))

    sent = [orjson.loads(request.partition(b"\r\n\r\n")[2])["messages"] for request in server.requests]
    assert sent == [[{"role": "user", "content": f"{salt}\nSay hello."}] for salt in ("s1", "s2")]


def test_no_key_sends_no_authorization(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "hold"])

    patched("complete", settings(server, include_usage=False), kind, environment={"OPENAI_API_KEY": "sk-env"})

    assert b"authorization" not in server.requests[0].lower()
    assert b"sk-env" not in server.requests[0]
    assert b"stream_options" not in server.requests[0]


@pytest.mark.parametrize(
    ("base", "target"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/a/v1", "/a/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions/", "/chat/completions"),
        ("/d/x?api-version=2024-06-01&a=%2F+b", "/d/x/chat/completions?api-version=2024-06-01&a=%2F+b"),
        ("?v=1", "/v1/chat/completions?v=1"),
    ],
)
def test_the_base_url_may_include_prefix_path_and_query(
    kind: ClientKind, base: str, target: str, serve: Serve, patched: Patched
) -> None:
    server = serve(["read", FINE, "hold"])

    patched("complete", ClientSettings(base_urls=(server.url + base,), model="m"), kind)

    assert server.requests[0].startswith(b"POST %s HTTP/1.1\r\n" % target.encode())


def test_the_given_headers_are_sent_once_each(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "hold"])
    given = {
        "X-Title": "100 % load",
        "OpenAI-Organization": "org-1",
        "HTTP-Referer": "https://h/",
        "user-agent": "probe",
    }
    secret = {"api-key": "abc123", "authorization": "Basic bWU6aHVudGVyMg=="}

    patched("complete", settings(server, headers=given, secret_headers=secret), kind)

    lines = server.requests[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    sent = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
    for name, value in {**given, **secret}.items():
        assert [each for each in sent if each[0] == name.lower()] == [(name.lower(), value)]


@pytest.mark.parametrize("name", [None, "X-Trace"])
def test_the_requests_id_has_the_header_of_the_settings(
    kind: ClientKind, name: str | None, serve: Serve, patched: Patched
) -> None:
    server = serve(["read", FINE, "hold"])

    [record] = patched("complete", settings(server, request_id_header=name), kind)

    head = server.requests[0].partition(b"\r\n\r\n")[0].lower()
    assert record.request_id == "0-0"
    assert b"x-request-id" not in head
    assert (b"\r\nx-trace: 0-0" in head) == (name is not None)
    assert b"0-0" in head or name is None


def test_several_urls_take_turns(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    script = ["read", FINE] * 4
    one, two = serve(script), serve(script)

    patched("complete", ClientSettings(base_urls=(one.url, two.url), model="m"), kind, times=4)

    assert (len(one.requests), len(two.requests)) == (2, 2)


def html(status: str) -> bytes:
    return answer(b"<html>sorry</html>", status, "text/html")


def error_event(error: Any) -> bytes:
    return EVENTS_HEAD + chunked(event(error=error), DONE)


FAILURES: dict[str, tuple[list[Any], ErrorType, int | None, str]] = {
    "overload in a 200": (
        ["read", EVENTS_HEAD, chunked(captured("vllm_overload_stream_http200_error_event.txt")), "hold"],
        ErrorType.ENGINE_ERROR,
        503,
        "busy",
    ),
    "tgi overload in a 200": (
        ["read", EVENTS_HEAD, chunked(captured("tgi_chat_stream_error.reconstructed.sse")), "hold"],
        ErrorType.ENGINE_ERROR,
        422,
        "overloaded",
    ),
    "503": (["read", (STREAMS / "vllm_overload_http503.txt").read_bytes()], ErrorType.HTTP_SERVER_ERROR, 503, "busy"),
    "error is a string": (["read", error_event("out of memory")], ErrorType.ENGINE_ERROR, 200, "out of memory"),
    "error amid the text": (
        ["read", EVENTS_HEAD, chunked(text("a"), event(error={"message": "died", "code": 500}), DONE)],
        ErrorType.ENGINE_ERROR,
        500,
        "died",
    ),
    "detail in a 200": (
        ["read", EVENTS_HEAD, chunked(event(detail="no such model"))],
        ErrorType.ENGINE_ERROR,
        200,
        "no such model",
    ),
    "whole error in a 200": (
        ["read", answer(b'{"object":"error","message":"too long","code":400}')],
        ErrorType.ENGINE_ERROR,
        400,
        "too long",
    ),
    "401": (["read", answer(b'{"error":"Unauthorized"}', "401 No")], ErrorType.HTTP_CLIENT_ERROR, 401, "Unauthorized"),
    "422": (
        ["read", answer(b'{"detail":[{"msg":"bad field"}]}', "422 No")],
        ErrorType.HTTP_CLIENT_ERROR,
        422,
        "bad field",
    ),
    "404 html": (["read", html("404 Not Found")], ErrorType.HTTP_CLIENT_ERROR, 404, "sorry"),
    "500 nothing": (["read", answer(b"", "500 No")], ErrorType.HTTP_SERVER_ERROR, 500, "500"),
    "429": (
        ["read", answer(b'{"error":{"message":"slow down"}}', "429 No", more="Retry-After: 7\r\n")],
        ErrorType.RATE_LIMITED,
        429,
        "slow down",
    ),
    "302": (["read", answer(b"", "302 Found", more="Location: /x\r\n")], ErrorType.HTTP_UNEXPECTED, 302, "302"),
    "202": (["read", answer(b"{}", "202 Accepted")], ErrorType.HTTP_UNEXPECTED, 202, "202"),
    "html 200": (["read", html("200 OK")], ErrorType.CONTENT_TYPE, 200, "text/html"),
    "event is not json": (["read", EVENTS_HEAD, chunked(b"data: {nope\n\n")], ErrorType.NOT_JSON, None, "not JSON"),
    "body is not json": (["read", answer(b"{nope")], ErrorType.NOT_JSON, None, "not JSON"),
    "closed before": (["read"], ErrorType.RESET, None, "before an answer"),
    "reset before": (["read", "reset"], ErrorType.RESET, None, ""),
    "reset within": (["read", EVENTS_HEAD, chunk(text("a")), 0.05, "reset"], ErrorType.RESET, None, ""),
    "cut within": (["read", EVENTS_HEAD, chunk(text("a"))], ErrorType.INCOMPLETE, None, "within the answer"),
    "cut after the text": (
        ["read", EVENTS_HEAD, chunk(text("a", "stop"))],
        ErrorType.INCOMPLETE,
        None,
        "within the answer",
    ),
    "no finish_reason": (["read", EVENTS_HEAD, chunked(text("a"), DONE)], ErrorType.INCOMPLETE, None, "finish_reason"),
    "no chunk length": (["read", EVENTS_HEAD, chunk(text("a")), b"zz\r\n"], ErrorType.PROTOCOL, None, ""),
    "not http": (["read", b"SSH-2.0-OpenSSH\r\n\r\n", 0.05], ErrorType.PROTOCOL, None, ""),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
def test_failures_have_distinct_error_types(
    kind: ClientKind, failure: tuple[list[Any], ErrorType, int | None, str], serve: Serve, patched: Patched
) -> None:
    script, error_type, status, message = failure
    server = serve(script)

    [record] = patched("complete", settings(server), kind)

    assert record.outcome is Outcome.FAILED
    assert (record.error.type, record.error.http_status) == (error_type, status)
    assert message in record.error.message
    assert record.retries == record.reconnects == 0
    assert server.connections == 1
    assert record.done_ns > record.started_ns


@pytest.mark.parametrize("name", CASES)
def test_what_engines_really_send(kind: ClientKind, name: str, serve: Serve, patched: Patched) -> None:
    case = CASES[name]
    server = serve(["read", case.sent, "hold"])

    [record] = patched("complete", settings(server, body=case.body), kind)

    found = facts(record)
    assert (found["error"], found["outcome"]) == (case.error, Outcome.FAILED if case.error else Outcome.COMPLETED), (
        found
    )
    assert case.says in (found["message"] or "")
    assert len(found["message"] or "") <= 500
    assert {field: found[field] for field in case.record} == case.record
    if kind == "openai":
        [stamped_by_kernel] = patched("complete", settings(server, body=case.body), "wire")
        assert found == facts(stamped_by_kernel)


def test_retry_after_is_recorded(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", answer(b"", "429 No", more="Retry-After: 7\r\n")])

    [record] = patched("complete", settings(server), kind)

    assert record.error.retry_after_s == 7.0


def test_a_key_never_shows_in_a_message(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", answer(b'{"error":{"message":"Wrong key: sk-secret1"}}', "401 No")])

    [record] = patched("complete", settings(server, api_key="sk-secret1"), kind)

    assert "Wrong key: ***" in record.error.message
    assert "secret" not in repr(record)
    assert "secret" not in repr(settings(server, api_key="sk-secret1", headers={"x-api-key": "secret"}))


@pytest.mark.parametrize(
    "said",
    ["abc123xyz", "Basic bWU6aHVudGVyMg==", "bWU6aHVudGVyMg==", "me:hunter2", "hunter2", "sk-very-long", "abc1***xyz"],
)
def test_a_header_from_the_environment_never_shows_in_a_message(
    kind: ClientKind, said: str, serve: Serve, patched: Patched
) -> None:
    server = serve(["read", answer(orjson.dumps({"error": {"message": f"who is {said}?"}}), "401 No")])
    secret = {"x-title": "abc123xyz", "Authorization": "Basic bWU6aHVudGVyMg==", "X-Login": "Token sk-very-long"}

    [record] = patched("complete", settings(server, secret_headers=secret), kind)

    assert record.error.message.startswith("HTTP 401: who is ***")
    assert said not in repr(record) + repr(settings(server, secret_headers=secret))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_carries_no_key(
    kind: ClientKind, serve: Serve, patched: Patched, status: int
) -> None:
    other = serve(["read", answer(b"{}")])
    server = serve(["read", answer(b"", f"{status} Moved", more=f"Location: {other.url}/v1/chat/completions\r\n")])

    [record] = patched("complete", settings(server, api_key="sk-secret1", secret_headers={"k": "sk-secret2"}), kind)

    assert (record.error.type, record.error.http_status) == (ErrorType.HTTP_UNEXPECTED, status)
    assert b"sk-secret1" in server.requests[0]
    assert b"sk-secret2" in server.requests[0]
    assert (len(server.requests), other.connections) == (1, 0)


def test_a_refused_connection(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve([])
    nobody_there = settings(server)
    server.close()

    [record] = patched("complete", nobody_there, kind)

    assert record.error.type is ErrorType.CONNECT_REFUSED
    assert (record.connected_ns, record.sent_ns) == (None, None)


def test_an_unknown_name(kind: ClientKind, patched: Patched) -> None:
    [record] = patched("complete", ClientSettings(base_urls=("http://no-such-host.invalid:1",), model="m"), kind)

    assert record.error.type is ErrorType.DNS


QUIET = {
    "before the head": (["read", "hold"], ErrorType.FIRST_TOKEN_TIMEOUT),
    "after the head": (["read", EVENTS_HEAD, "hold"], ErrorType.FIRST_TOKEN_TIMEOUT),
    "only comments": (["read", EVENTS_HEAD, *[0.1, chunk(b": wait\n\n")] * 6, "hold"], ErrorType.FIRST_TOKEN_TIMEOUT),
    "after a token": (["read", EVENTS_HEAD, chunk(text("a")), "hold"], ErrorType.BETWEEN_TOKENS_TIMEOUT),
    "for too long": (["read", EVENTS_HEAD, *[chunk(text("a")), 0.1] * 20], ErrorType.TOTAL_TIMEOUT),
}


@pytest.mark.timing
@pytest.mark.parametrize("quiet", QUIET.values(), ids=list(QUIET))
def test_time_limits(kind: ClientKind, quiet: tuple[list[Any], ErrorType], serve: Serve, patched: Patched) -> None:
    script, error_type = quiet
    server = serve(script)
    timeouts = Timeouts(first_token_s=0.3, between_tokens_s=0.2, total_s=1.0)
    limit_s = {"first_token_timeout": 0.3, "between_tokens_timeout": 0.2, "total_timeout": 1.0}[error_type]

    [record] = patched("complete", settings(server, timeouts=timeouts), kind)

    assert record.error.type is error_type
    assert limit_s <= record.e2e_s < limit_s + 0.15


def test_text_in_unknown_fields_is_named_instead_of_a_time_out(
    kind: ClientKind, serve: Serve, patched: Patched
) -> None:
    unknown = chunk(event(choices=[{"index": 0, "delta": {"answer": "Hi"}}]))
    server = serve(["read", EVENTS_HEAD, unknown, "hold"])

    [record] = patched("complete", settings(server, timeouts=Timeouts(first_token_s=0.3)), kind)

    assert record.error.type is ErrorType.UNKNOWN_TEXT
    assert "delta.answer" in record.error.message


@pytest.mark.parametrize("by", ["kill", "timeout"])
def test_a_killed_request_is_censored_and_its_stream_closed(
    kind: ClientKind, by: str, serve: Serve, patched: Patched
) -> None:
    server = serve(["read", EVENTS_HEAD, chunk(text("a")), "hold", b"gone"])

    [record] = patched("complete_and_kill", settings(server), kind, after_s=1.0, by=by)

    assert record.outcome is Outcome.CENSORED
    assert record.error is None
    assert len(record.chunk_ns) == 1
    assert record.e2e_s == pytest.approx(1.0, abs=0.5)


def test_no_retries_by_default(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    busy = ["read", answer(b"", "503 Busy", more="Retry-After: 0.01\r\n")]
    server = serve(busy, busy, ["read", FINE, "hold"])

    [record] = patched("complete", settings(server, retries=3), kind)

    assert record.ok
    assert record.retries == 2
    assert len(server.requests) == 3
    assert all(b"x-request-id: 0-0\r\n" in request.lower() for request in server.requests), "the record's"


SILENT: list[Any] = ["hold"]


@pytest.mark.timing
@pytest.mark.parametrize(
    ("connect_s", "total_s", "error_type"), [(3, 0.5, "total_timeout"), (0.5, 3, "connect_timeout")]
)
@pytest.mark.parametrize("at", ["handshake", "tunnel"])
def test_a_connection_that_stalls_ends_by_the_earlier_limit(
    kind: ClientKind, at: str, connect_s: float, total_s: float, error_type: str, serve: Serve, patched: Patched
) -> None:
    server = serve(SILENT)
    limits = Timeouts(connect_s=connect_s, total_s=total_s)
    engine = server.url.replace("http", "https") if at == "handshake" else "https://engine.test"
    environment = {} if at == "handshake" else {"https_proxy": server.url}
    there = ClientSettings(base_urls=(engine,), model="m", timeouts=limits)

    [record] = patched("complete", there, kind, environment=environment)

    assert record.error.type == error_type
    assert 0.5 <= record.e2e_s < 0.6
    assert record.sent_ns is None


@pytest.mark.timing
def test_the_total_limit_holds_over_connections_and_pauses(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(SILENT)
    there = ClientSettings(
        base_urls=(server.url.replace("http", "https"),),
        model="m",
        retries=5,
        timeouts=Timeouts(connect_s=0.3, total_s=1),
    )

    [record] = patched("complete", there, kind)

    assert record.error.type is ErrorType.TOTAL_TIMEOUT
    assert 1 <= record.e2e_s < 1.1
    assert (record.retries, server.connections) == (1, 2)  # 0.3 s, a pause of 0.5 s, and the last 0.2 s


def test_a_request_whose_deadline_has_passed_is_not_sent(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "read", FINE, "hold"])

    in_time, late = patched("complete_overdue", settings(server, timeouts=Timeouts(total_s=2)), kind, ago_s=3)

    assert in_time.ok
    assert late.error.type is ErrorType.TOTAL_TIMEOUT
    assert "not sent" in late.error.message
    assert late.e2e_s < 0.1
    assert len(server.requests) == 1


def test_the_deadline_counts_from_when_the_request_was_due(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE], ["read", "hold"])

    _, late = patched("complete_overdue", settings(server, timeouts=Timeouts(total_s=1)), kind, ago_s=0.6)

    assert late.error.type is ErrorType.TOTAL_TIMEOUT
    assert 1 <= late.e2e_from_schedule_s < 1.15
    assert len(server.requests) == 2


@pytest.mark.parametrize(("header", "says"), [("Retry-After: 4\r\n", "Retry-After of 4 s"), ("", "a pause of 1 s")])
def test_a_pause_beyond_the_deadline_is_not_begun(
    kind: ClientKind, header: str, says: str, serve: Serve, patched: Patched
) -> None:
    server = serve(["read", answer(b"busy", "503 Busy", more=header)])
    limits = Timeouts(total_s=1 if header else 0.4)

    [record] = patched("complete", settings(server, retries=3, timeouts=limits), kind)

    assert (record.error.type, record.error.http_status) == (ErrorType.HTTP_SERVER_ERROR, 503)
    assert record.error.message.startswith(f"not sent again, {says}")
    assert record.error.message.endswith("HTTP 503: busy")
    assert record.error.retry_after_s == (4 if header else None)
    assert (record.retries, len(server.requests)) == (0, 1)
    assert record.e2e_s < 0.3


def test_a_retry_waits_as_long_as_the_engine_says(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", answer(b"", "429 Busy", more="Retry-After: 1.2\r\n")], ["read", FINE, "hold"])

    [record] = patched("complete", settings(server, retries=1, timeouts=Timeouts(total_s=2)), kind)

    assert record.ok
    assert record.e2e_s >= 1.2


NAMED = "http://engine.test:{}"


@pytest.fixture
def silent_at() -> Iterator[Callable[[str, int], None]]:
    """Make connections to an address and port wait for ever: its queue of connections is full."""
    with contextlib.ExitStack() as opened:

        def fill(address: str, port: int) -> None:
            opened.enter_context(socket.create_server((address, port), backlog=0))
            for _ in range(4):
                waiting = opened.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((address, port))

        yield fill


@pytest.mark.timing
def test_a_silent_first_address_delays_one_request_only(
    kind: ClientKind, silent_at: Callable[[str, int], None], serve: Serve, patched: Patched
) -> None:
    server = serve(["read", FINE])  # every request needs a new connection
    silent_at("127.0.0.2", server.port)
    there = ClientSettings(base_urls=(NAMED.format(server.port),), model="m")

    records = patched("complete_at", ["127.0.0.2", "127.0.0.1"], there, kind, times=3)

    assert [record.error for record in records] == [None] * 3
    assert 0.25 <= records[0].e2e_s < 0.5
    assert max(record.e2e_s for record in records[1:]) < 0.2


def test_an_address_that_refuses_delays_nothing(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE])
    there = ClientSettings(base_urls=(NAMED.format(server.port),), model="m")

    [record] = patched("complete_at", ["127.0.0.3", "127.0.0.1"], there, kind)

    assert record.ok
    assert record.e2e_s < 0.2


def test_addresses_that_all_refuse_are_a_refusal(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE])
    there = ClientSettings(base_urls=(NAMED.format(server.port),), model="m")

    [record] = patched("complete_at", ["127.0.0.3", "127.0.0.4"], there, kind)

    assert record.error.type is ErrorType.CONNECT_REFUSED


@pytest.mark.timing
@pytest.mark.parametrize(
    ("connect_s", "total_s", "error_type"), [(0.4, 3, "connect_timeout"), (3, 0.4, "total_timeout")]
)
def test_many_silent_addresses_are_all_tried_in_time(
    kind: ClientKind,
    connect_s: float,
    total_s: float,
    error_type: str,
    silent_at: Callable[[str, int], None],
    serve: Serve,
    patched: Patched,
) -> None:
    server = serve(["read", FINE])
    dead = [f"127.0.0.{number}" for number in range(2, 6)]
    for address in dead:
        silent_at(address, server.port)
    limits = Timeouts(connect_s=connect_s, total_s=total_s)
    there = ClientSettings(base_urls=(NAMED.format(server.port),), model="m", timeouts=limits)

    [record] = patched("complete_at", [*dead, "127.0.0.1"], there, kind)
    [nowhere] = patched("complete_at", dead, there, kind)

    assert record.ok
    assert nowhere.error.type == error_type
    assert 0.4 <= nowhere.e2e_s < 0.5


def test_addresses_that_answer_are_used_in_the_resolvers_order(
    kind: ClientKind, serve: Serve, patched: Patched
) -> None:
    first = serve(["read", FINE])
    there = ClientSettings(base_urls=(NAMED.format(first.port),), model="m")

    with socket.create_server(("127.0.0.2", first.port)) as second:
        records = patched("complete_at", ["127.0.0.1", "127.0.0.2"], there, kind, times=3)
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.accept()

    assert [record.error for record in records] == [None] * 3
    assert first.connections == 3


def test_a_wrong_request_is_not_retried(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", answer(b"", "400 Bad")])

    [record] = patched("complete", settings(server, retries=3), kind)

    assert record.retries == 0
    assert server.connections == 1


def test_a_client_survives_a_fork(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "read", FINE, "hold"])

    mine, theirs = patched("complete_in_fork", settings(server), kind)

    assert [record.error for record in (*mine, *theirs)] == [None] * 3
    best = BEST_STAMPS if kind == "wire" else StampSource.USER
    assert {record.stamp_source for record in (*mine, *theirs)} == {best}


def test_records_of_one_client_do_not_mix(kind: ClientKind, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "read", FINE, "read", FINE, "hold"])

    records: list[RequestRecord] = patched("complete", settings(server), kind, times=3, at_once=8)

    assert len({record.request_id for record in records}) == 24
    assert {len(record.chunk_ns) for record in records} == {2}
    assert all(record.ok for record in records)
