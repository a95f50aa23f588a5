"""Every fault, as a client sees it."""

import json

import pytest

from llmload.simulator.settings import FAULT_STATUS, FAULTS
from tests.simulator.conftest import Client, StartEngine

HALF = 3
"""Tokens before a fault strikes: half of the quick engine's 6."""


@pytest.mark.parametrize("kind", [kind for kind in FAULT_STATUS if kind != "html_error"])
def test_http_errors_carry_their_status_and_a_json_error(quick: Client, kind: str) -> None:
    seen = quick.chat(fault=kind)

    assert seen.status == FAULT_STATUS[kind] == int(kind.removeprefix("http_"))
    assert json.loads(seen.body)["error"]["code"] == seen.status
    assert ("retry-after: 1" in seen.head) == (kind == "http_429")


def test_html_error_is_a_proxys_page(quick: Client) -> None:
    seen = quick.chat(fault="html_error")

    assert seen.status == 502
    assert seen.body.startswith(b"<html>")


def test_error_event_is_an_error_object_inside_a_good_stream(quick: Client) -> None:
    seen = quick.chat(fault="error_event")

    assert seen.status == 200
    assert seen.token_chunks == HALF
    assert b'data: {"error":{"message"' in seen.body
    assert b'"finish_reason":"stop"' not in seen.body
    assert seen.whole_body


def test_error_event_without_streaming_is_http_500(quick: Client) -> None:
    headers = {"X-Simulate-Fault": "error_event"}

    assert quick.request("POST", "/v1/completions", {"prompt": "x"}, headers)[0] == 500


def test_an_error_event_has_tgis_fields(quick: Client) -> None:
    events = quick.events("/generate_stream", {"inputs": "x"}, {"X-Simulate-Fault": "error_event"})

    assert json.loads(events[HALF])["error_type"] == "generation"


def test_reset_is_a_reset_and_not_an_orderly_close(quick: Client) -> None:
    seen = quick.chat(fault="reset")

    assert seen.ended == "reset"
    assert seen.token_chunks in (HALF - 1, HALF)  # what the kernel had not delivered is lost with a reset


def test_early_close_ends_the_connection_inside_the_body(quick: Client) -> None:
    seen = quick.chat(fault="early_close")

    assert seen.ended == "closed"
    assert seen.token_chunks == HALF
    assert not seen.whole_body


def test_early_close_of_a_json_answer_is_shorter_than_its_length(quick: Client) -> None:
    with quick.connect() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nX-Simulate-Fault: early_close\r\n"
            b'Content-Length: 15\r\n\r\n{"prompt": "x"}'
        )
        seen = quick.read(connection)

    assert seen.ended == "closed"
    assert 0 < len(seen.body) < int(seen.head.split("content-length: ")[1].split("\r\n")[0])


def test_no_finish_ends_the_body_without_a_reason(quick: Client) -> None:
    seen = quick.chat(fault="no_finish")

    assert seen.whole_body
    assert seen.token_chunks == HALF
    assert b'"finish_reason":"' not in seen.body
    assert b"[DONE]" not in seen.body


def test_stall_writes_half_and_leaves_the_connection_open(quick: Client) -> None:
    seen = quick.chat(fault="stall", quiet_s=0.2)

    assert seen.ended == "quiet"
    assert seen.token_chunks == HALF


def test_stall_first_writes_nothing(quick: Client) -> None:
    seen = quick.chat(fault="stall_first", quiet_s=0.2)

    assert seen.ended == "quiet"
    assert seen.data == b""


def test_a_stalled_request_keeps_its_slot_until_the_client_disconnects(start: StartEngine) -> None:
    client = start(slots=1, ttft_s=0.01, prefill_s_per_token=0.0, itl_s=0.001, output_tokens=2)
    with client.connect() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nX-Simulate-Fault: stall_first\r\n"
            b'Content-Length: 15\r\n\r\n{"prompt": "x"}'
        )
        assert client.chat(quiet_s=0.2).token_chunks == 0
        assert client.metrics()['vllm:num_requests_running{model_name="simulated"}'] == 1
    assert client.chat().token_chunks == 2
    assert sorted(row["finish"] for row in client.truth(3)) == ["abort", "abort", "stop"]


def test_malformed_chunk_has_a_size_that_is_not_a_number(quick: Client) -> None:
    seen = quick.chat(fault="malformed_chunk")

    assert seen.token_chunks == HALF
    assert b"\r\nzz\r\n" in seen.body
    assert seen.ended == "closed"


def test_not_streamed_is_one_json_answer(quick: Client) -> None:
    seen = quick.chat(fault="not_streamed")

    assert "content-type: application/json" in seen.head
    assert json.loads(seen.body)["usage"]["completion_tokens"] == 6


def test_no_usage_leaves_the_counts_out(quick: Client) -> None:
    body = {"stream_options": {"include_usage": True}}

    assert b'"usage"' in quick.chat(more=body).body
    assert b'"usage"' not in quick.chat(more=body, fault="no_usage").body


def test_no_done_ends_after_the_finish(quick: Client) -> None:
    seen = quick.chat(fault="no_done")

    assert seen.whole_body
    assert b'"finish_reason":"stop"' in seen.body
    assert b"[DONE]" not in seen.body


def test_close_after_announces_keep_alive_and_closes(quick: Client) -> None:
    body = b'{"prompt": "x", "stream": true}'
    with quick.connect() as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nX-Simulate-Fault: close_after\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        seen = quick.read(connection)

        assert "connection: keep-alive" in seen.head
        assert seen.whole_body
        assert connection.recv(1) == b""


def test_an_unknown_fault_is_refused_by_name(quick: Client) -> None:
    seen = quick.chat(fault="fire")

    assert seen.status == 400
    assert b"fire" in seen.body
    assert all(kind.encode() in seen.body for kind in FAULTS)


def test_a_share_of_one_strikes_every_request_that_does_not_opt_out(start: StartEngine) -> None:
    client = start(faults={"http_503": 1.0}, ttft_s=0.0, output_tokens=1)

    assert [client.chat().status for _ in range(3)] == [503] * 3
    assert client.chat(fault="none").status == 200
