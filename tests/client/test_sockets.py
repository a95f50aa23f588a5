"""What the client does with sockets: stamps, connections, TLS, proxies, memory."""

import base64
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmload.client import make_client
from llmload.client.settings import ClientSettings, Timeouts
from llmload.errors import ConfigError
from llmload.prompts.conversation import Prompt, as_message
from llmload.record import ErrorType, StampSource
from tests.best_stamps import BEST_STAMPS, EXPECTED
from tests.client.scripted_server import EVENTS_HEAD, ScriptedServer, Step, answer, chunk, chunked

Serve = Callable[..., ScriptedServer]
Patched = Callable[..., Any]

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"ab"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{"content":"c"},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
FINE = EVENTS_HEAD + chunked(TOKEN, LAST, DONE)


def settings(server: ScriptedServer, **more: Any) -> ClientSettings:
    return ClientSettings(base_urls=(server.url,), model="m", **more)


def spaced(tokens: int, pause_s: float) -> list[Step]:
    """Return a script that sends a token every so often."""
    token: list[Step] = [pause_s, chunk(TOKEN)]
    return ["read", EVENTS_HEAD, *token * tokens, pause_s, chunked(LAST), "hold"]


def lateness_ms(record: Any, server: ScriptedServer) -> list[float]:
    """Return how much later than sent each chunk was stamped."""
    pairs = zip(record.chunk_ns, server.sent_ns[1:], strict=True)
    return [(arrived_ns - sent_ns) / 1e6 for arrived_ns, sent_ns in pairs]


@pytest.mark.parametrize("stamps", ["auto", "socket"])
def test_kernel_stamps_are_right_although_the_process_stalls(stamps: str, serve: Serve, patched: Patched) -> None:
    server = serve(spaced(12, 0.05))

    [record] = patched("complete_while_stalled", settings(server, stamps=stamps), stall_s=0.03)

    assert record.stamp_source is EXPECTED[stamps]
    assert max(lateness_ms(record, server)) < 2
    assert min(lateness_ms(record, server)) > -0.1


def test_without_kernel_stamps_the_process_stamps_and_the_record_says_so(
    serve: Serve, patched_for_one_test: Patched
) -> None:
    server = serve(spaced(20, 0.02), spaced(12, 0.05))

    [record] = patched_for_one_test("without_kernel_stamps", "complete", settings(server, stamps="socket"), "wire")
    assert record.stamp_source is StampSource.USER
    assert sum(lateness_ms(record, server)) / 21 < 2

    server.sent_ns.clear()
    [stalled] = patched_for_one_test(
        "without_kernel_stamps", "complete_while_stalled", settings(server, stamps="socket"), stall_s=0.03
    )
    assert stalled.stamp_source is StampSource.USER
    assert max(lateness_ms(stalled, server)) > 2


def test_a_connection_is_kept_alive_and_reused(serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE] * 5)

    records = patched("complete", settings(server), "wire", times=5)

    assert [record.error for record in records] == [None] * 5
    assert server.connections == 1
    assert [record.connected_ns is not None for record in records] == [True, False, False, False, False]


def test_connection_close_is_obeyed(serve: Serve, patched: Patched) -> None:
    server = serve(["read", answer(b"{}", more="Connection: close\r\n")])

    records = patched("complete", settings(server), "wire", times=2)

    assert [record.reconnects for record in records] == [0, 0]
    assert server.connections == 2


def test_a_body_that_ends_with_the_connection_is_complete(serve: Serve, patched: Patched) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    server = serve(["read", head, TOKEN, LAST + DONE, 0.1])

    [record] = patched("complete", settings(server), "wire")

    assert record.error is None
    assert record.done_ns == record.chunk_ns[-1]


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
def test_an_idle_connection_that_was_closed_is_replaced(pause_s: float, serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, pause_s])

    records = patched("complete", settings(server), "wire", times=3)

    assert [record.error for record in records] == [None] * 3
    if pause_s:  # else its end may come with the answer, and then it is not kept
        assert [record.reconnects for record in records] == [0, 1, 1]
    assert server.connections == 3
    assert all(record.connected_ns is not None for record in records)


def test_a_kept_alive_connection_that_closes_on_the_request_is_replaced(serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "read", "reset"], ["read", FINE, "hold"])

    records = patched("complete", settings(server), "wire", times=2)

    assert [record.error for record in records] == [None, None]
    assert records[1].reconnects == 1
    assert len(server.requests) == 3


def test_a_new_connection_that_closes_is_a_failure(serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "read", "reset"], ["read", "reset"])

    records = patched("complete", settings(server), "wire", times=2)

    assert records[1].error.type is ErrorType.RESET
    assert records[1].reconnects == 1
    assert server.connections == 2


def test_an_answer_that_breaks_off_after_done_is_complete(serve: Serve, patched: Patched) -> None:
    server = serve(["read", EVENTS_HEAD, chunk(TOKEN), chunk(LAST + DONE), 0.1])

    [record] = patched("complete", settings(server), "wire")

    assert record.ok
    assert record.done_ns == record.chunk_ns[-1]


def test_a_connection_in_use_by_many_streams_above_1024(patched: Patched) -> None:
    import resource

    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2600:
        pytest.skip("needs 2,600 file descriptors")

    records, most = patched("serve_many", 1150, 4, 0.7)

    assert most == 1150
    assert [record.error for record in records if not record.ok] == []
    assert sum(record.connected_ns is not None for record in records) == 1150
    assert sum(record.reconnects for record in records) == 0


def test_a_prompt_of_megabytes_is_sent_completely(serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "read", FINE, "hold"])
    prompt = Prompt("big", (as_message("user", "word " * 1_000_000),))

    records = patched("complete", settings(server), "wire", prompt=prompt, prepared=True, times=2)

    assert [record.error for record in records] == [None, None]
    assert server.requests[1].count(b"word ") == 1_000_000


@pytest.mark.parametrize("last_step", ["hold", 0.0], ids=["kept open", "closed with the last byte"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_an_answer_that_arrives_faster_than_it_is_decoded_is_complete(
    last_step: Step, tls: bool, serve: Serve, server_tls: ssl.SSLContext, patched: Patched
) -> None:
    event = TOKEN.replace(b"ab", b"ab" * 900_000)
    body = chunk(event) + chunk(TOKEN) + chunk(event) + chunked(LAST, DONE)
    server = serve(["read", EVENTS_HEAD + body, last_step], tls=server_tls if tls else None)

    [record] = patched("complete", settings(server, verify_tls=False), "wire")

    assert record.error is None
    assert len(record.chunk_ns) == 4


def test_an_early_refusal_of_a_long_prompt_is_read(serve: Serve, patched: Patched) -> None:
    server = serve([answer(b'{"error":"too long"}', "413 Too Large"), 0.5])
    prompt = Prompt("big", (as_message("user", "word " * 2_000_000),))

    [record] = patched("complete", settings(server), "wire", prompt=prompt)

    assert (record.error.http_status, record.sent_ns) == (413, None)


def test_streams_cost_the_memory_of_their_stamps(serve: Serve, patched: Patched) -> None:
    padded = TOKEN.replace(b'"index":0', b'"index":0,"logprobs":null,"token_ids":null,"stop_reason":null' + b" " * 100)
    few = EVENTS_HEAD + chunked(LAST)
    server = serve(["read", few], ["read", EVENTS_HEAD, *[chunk(padded) * 40] * 100, chunked(LAST), "hold"])

    records, peak_mb, _ = patched("memory_of", settings(server), at_once=20)

    assert {len(record.chunk_ns) for record in records} == {4001}
    assert peak_mb / 20 < 0.2


@pytest.mark.parametrize("streamed", [True, False])
def test_a_large_answer_arrives_and_its_memory_is_freed(streamed: bool, serve: Serve, patched: Patched) -> None:
    text = b"x" * 1_900_000
    if streamed:
        big = EVENTS_HEAD + chunked(*[TOKEN.replace(b"ab", text)] * 10, LAST, DONE)
    else:
        big = answer(b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % text)
    server = serve(["read", big, "hold"])

    [record], _, left_mb = patched("memory_of", settings(server), at_once=1)

    assert record.error is None
    assert left_mb < 5


def test_an_idle_client_takes_no_cpu(serve: Serve, patched: Patched) -> None:
    server = serve(["read", FINE, "hold"])

    assert patched("cpu_share_while_idle", settings(server), 0.5) < 0.01


def test_a_connection_that_is_not_accepted_times_out(patched: Patched) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        there = ClientSettings(base_urls=(f"http://127.0.0.1:{port}",), model="m", timeouts=Timeouts(connect_s=0.3))

        [record] = patched("complete", there, "wire")

        for sock in waiting:
            sock.close()
    assert record.error.type is ErrorType.CONNECT_TIMEOUT
    assert record.e2e_s == pytest.approx(0.3, abs=0.1)


def test_ipv6(serve: Serve, patched: Patched) -> None:
    try:
        server = serve(["read", FINE, "hold"], family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")

    [record] = patched("complete", settings(server), "wire")

    assert record.ok
    assert record.stamp_source is BEST_STAMPS
    assert b"\r\nHost: [::1]:%d\r\n" % server.port in server.requests[0]


@pytest.mark.parametrize("stamps", ["auto", "socket"])
def test_tls_is_stamped_like_plain_text(
    stamps: str, serve: Serve, patched: Patched, server_tls: ssl.SSLContext, certificates: Path
) -> None:
    server = serve(spaced(8, 0.05), tls=server_tls)
    trusted = settings(server, ca_file=str(certificates / "ca.pem"), stamps=stamps)

    [record] = patched("complete_while_stalled", trusted, stall_s=0.03)

    assert record.error is None
    assert record.stamp_source is EXPECTED[stamps]
    assert max(lateness_ms(record, server)) < 2


def test_tls_connections_are_reused_and_carry_long_prompts(
    serve: Serve, patched: Patched, server_tls: ssl.SSLContext, certificates: Path
) -> None:
    server = serve(["read", FINE] * 3, tls=server_tls)
    prompt = Prompt("big", (as_message("user", "word " * 1_000_000),))

    records = patched(
        "complete", settings(server, ca_file=str(certificates / "ca.pem")), "wire", prompt=prompt, times=3
    )

    assert [record.error for record in records] == [None] * 3
    assert server.connections == 1
    assert server.requests[2].count(b"word ") == 1_000_000


@pytest.mark.parametrize("kind", ["wire", "openai"])
def test_a_server_with_an_untrusted_certificate_is_refused(
    kind: str, serve: Serve, patched: Patched, server_tls: ssl.SSLContext
) -> None:
    server = serve(["read", FINE], tls=server_tls)

    [record] = patched("complete", settings(server), kind)

    assert record.error.type is ErrorType.TLS
    assert "certificate" in record.error.message


@pytest.mark.parametrize("kind", ["wire", "openai"])
def test_verification_is_off_on_request(kind: str, serve: Serve, patched: Patched, server_tls: ssl.SSLContext) -> None:
    server = serve(["read", FINE], tls=server_tls)

    [record] = patched("complete", settings(server, verify_tls=False), kind)

    assert record.ok


def test_plain_text_where_tls_was_expected_is_a_tls_failure(serve: Serve, patched: Patched) -> None:
    server = serve([b"HTTP/1.1 400 Bad Request\r\n\r\n", 0.2])
    https = ClientSettings(base_urls=(server.url.replace("http", "https"),), model="m")

    [record] = patched("complete", https, "wire")

    assert record.error.type is ErrorType.TLS


@pytest.mark.parametrize("kind", ["wire", "openai"])
def test_a_proxy_forwards_http(kind: str, serve: Serve, patched: Patched) -> None:
    proxy = serve(["read", FINE, "hold"])
    engine = ClientSettings(base_urls=("http://engine.test:8000",), model="m")
    environment = {"http_proxy": proxy.url.replace("//", "//me:p%40ss@")}

    [record] = patched("complete", engine, kind, environment=environment)

    assert record.ok
    head = proxy.requests[0].partition(b"\r\n\r\n")[0]
    assert head.startswith(b"POST http://engine.test:8000/v1/chat/completions HTTP/1.1\r\n")
    assert b"Basic " + base64.b64encode(b"me:p@ss") in head
    assert b"Host: engine.test:8000" in head


def test_a_proxy_tunnels_tls(
    serve: Serve, patched: Patched, server_tls: ssl.SSLContext, certificates: Path, tunnel: Any
) -> None:
    engine = serve(["read", FINE, "read", FINE, "hold"], tls=server_tls)
    proxy = tunnel(engine.port)

    records = patched(
        "complete",
        settings(engine, ca_file=str(certificates / "ca.pem")),
        "wire",
        times=2,
        environment={"https_proxy": proxy.url},
    )

    assert [record.error for record in records] == [None, None]
    assert proxy.requests[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % engine.port)
    assert proxy.connections == 1


def test_a_proxy_that_refuses_is_a_failed_connection(serve: Serve, patched: Patched) -> None:
    proxy = serve(["read", answer(b"", "407 Proxy Authentication Required")])
    engine = ClientSettings(base_urls=("https://engine.test",), model="m")

    [record] = patched("complete", engine, "wire", environment={"https_proxy": proxy.url})

    assert (record.error.type, record.error.http_status) == (ErrorType.CONNECT_FAILED, 407)


def test_no_proxy_is_honoured(serve: Serve, patched: Patched) -> None:
    engine = serve(["read", FINE, "hold"])

    [record] = patched(
        "complete", settings(engine), "wire", environment={"http_proxy": "http://127.0.0.1:1", "no_proxy": "127.0.0.1"}
    )

    assert record.ok


def test_tgi_streams_its_own_api(serve: Serve, patched: Patched) -> None:
    head = (
        b'data:{"index":1,"token":{"id":1,"text":" a","logprob":-0.1,"special":false},"generated_text":null,"details":'
    )
    last = b'data:{"index":2,"token":{"id":2,"text":"</s>","logprob":0,"special":true},"generated_text":" a","details":'
    details = b'{"finish_reason":"eos_token","generated_tokens":2,"seed":null,"input_length":7}}\n\n'
    server = serve(["read", EVENTS_HEAD, chunked(head + b"null}\n\n", last + details), "hold"])

    [record] = patched("complete", settings(server, api="tgi-generate", body={"max_tokens": 9}), "wire")

    assert record.error is None
    assert (record.output_tokens, record.prompt_tokens, record.finish_reason) == (2, 7, "eos_token")
    assert record.token_source == "details"
    assert len(record.chunk_ns) == 1
    assert server.requests[0].startswith(b"POST /generate_stream HTTP/1.1\r\n")
    assert b'"max_new_tokens":9' in server.requests[0]


def test_tgi_answers_in_one_piece(serve: Serve, patched: Patched) -> None:
    body = b'{"generated_text":" a","details":{"finish_reason":"length","generated_tokens":9,"prefill":[]}}'
    server = serve(["read", answer(body), "hold"])

    [record] = patched("complete", settings(server, api="tgi-generate", stream=False), "wire")

    assert (record.output_tokens, record.finish_reason, record.ttft_s) == (9, "length", None)
    assert server.requests[0].startswith(b"POST /generate HTTP/1.1\r\n")


def test_tgi_errors_keep_their_type(serve: Serve, patched: Patched) -> None:
    error = b'data:{"error":"Request failed during generation","error_type":"generation"}\n\n'
    server = serve(["read", EVENTS_HEAD, chunked(error), "hold"])

    [record] = patched("complete", settings(server, api="tgi-generate"), "wire")

    assert record.error.type is ErrorType.ENGINE_ERROR
    assert record.error.message == "generation: Request failed during generation"


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"base_urls": ()}, "base_urls"),
        ({"base_urls": ("ftp://host",)}, "base URL"),
        ({"base_urls": ("http://me:secret@host",)}, "base URL"),
        ({"base_urls": ("http://host:port",)}, "base URL"),
        ({"headers": {"X-A": "one\r\nX-B: two"}}, "X-A"),
        ({"base_urls": ("https://host",), "ca_file": "/no/such/file"}, "ca_file"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_once(changed: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key) as refusal:
        make_client(ClientSettings(**{"base_urls": ("http://host",), "model": "m"} | changed))
    assert "secret" not in str(refusal.value)
