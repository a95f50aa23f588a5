"""What a client reads: vLLM's words, TGI's words, and that every answer says it is simulated."""

import http.client
import json

import pytest

from tests.simulator.conftest import Client, StartEngine

CHAT = {"model": "simulated", "messages": [{"role": "user", "content": "abcdefgh"}]}


def test_a_chat_stream_gives_role_then_tokens_then_finish_then_usage_then_done(quick: Client) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    *events, done = quick.events("/v1/chat/completions", body)
    role, *tokens, finish, usage = map(json.loads, events)

    assert done == "[DONE]"
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [len(token["choices"][0]["delta"]["content"]) for token in tokens] == [5] * 6
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 4 + 2, "total_tokens": 12, "completion_tokens": 6}
    assert {event["object"] for event in [role, *tokens, finish, usage]} == {"chat.completion.chunk"}
    assert len({event["id"] for event in [role, *tokens, finish, usage]}) == 1


def test_usage_is_not_sent_unless_requested(quick: Client) -> None:
    events = quick.events("/v1/chat/completions", {**CHAT, "stream": True})

    assert not any("usage" in event for event in events)


def test_a_stream_and_a_json_answer_have_the_same_text(quick: Client) -> None:
    events = [json.loads(event) for event in quick.events("/v1/chat/completions", {**CHAT, "stream": True})[:-1]]
    whole = json.loads(quick.request("POST", "/v1/chat/completions", CHAT)[2])

    assert whole["choices"][0]["message"]["content"] == "".join(e["choices"][0]["delta"]["content"] for e in events)
    assert whole["usage"] == {"prompt_tokens": 6, "total_tokens": 12, "completion_tokens": 6}


def test_completions_stream_text_and_end_by_length_at_max_tokens(quick: Client) -> None:
    *events, done = quick.events("/v1/completions", {"prompt": "hi", "stream": True, "max_tokens": 3})
    choices = [json.loads(event)["choices"][0] for event in events]

    assert done == "[DONE]"
    assert [bool(choice["text"]) for choice in choices] == [True, True, True, False]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "length"]


def test_tgi_streams_its_own_tokens_and_details_on_the_last(quick: Client) -> None:
    status, headers, raw = quick.request("POST", "/generate_stream", {"inputs": "hi"})
    events = [json.loads(line.removeprefix("data:")) for line in raw.decode().split("\n\n") if line]

    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert raw.startswith(b'data:{"index":1,')
    assert [event["generated_text"] for event in events[:-1]] == [None] * 5
    assert events[-1]["generated_text"] == "".join(event["token"]["text"] for event in events)
    assert events[-1]["details"] == {"finish_reason": "eos_token", "generated_tokens": 6, "seed": None}


def test_tgi_gives_details_of_a_json_answer_only_if_requested(quick: Client) -> None:
    plain = json.loads(quick.request("POST", "/generate", {"inputs": "hi"})[2])
    body = {"inputs": "hi", "parameters": {"details": True, "max_new_tokens": 2}}
    detailed = json.loads(quick.request("POST", "/generate", body)[2])

    assert plain.keys() == {"generated_text"}
    assert (detailed["details"]["finish_reason"], detailed["details"]["generated_tokens"]) == ("length", 2)


def test_every_answer_says_that_it_is_simulated(quick: Client) -> None:
    _, headers, raw = quick.request("POST", "/v1/chat/completions", CHAT)

    assert headers["server"].startswith("llmload-simulated/")
    assert json.loads(raw)["system_fingerprint"].startswith("llmload-simulated-")
    assert json.loads(quick.get("/v1/models"))["data"][0]["owned_by"] == "llmload-simulated"
    assert json.loads(quick.get("/version"))["engine"] == "llmload simulated engine"
    assert json.loads(quick.get("/info"))["engine"] == "llmload simulated engine"
    assert quick.request("GET", "/health")[0] == 200


def test_the_clients_request_id_comes_back(quick: Client) -> None:
    status, headers, raw = quick.request("POST", "/v1/chat/completions", CHAT, {"X-Request-Id": 'a"b'})

    assert status == 200
    assert headers["x-request-id"] == 'a"b'
    assert json.loads(raw)["id"] == 'chatcmpl-a"b'


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "other"}, 404),
        ("/v1/chat/completions", b"{not json", 400),
        ("/v1/chat/completions", {"messages": []}, 400),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 0}, 400),
        ("/v1/chat/completions", {**CHAT, "n": 2}, 400),
        ("/v1/completions", {"prompt": 5}, 400),
        ("/generate_stream", {"inputs": None}, 422),
        ("/v1/embeddings", {}, 404),
        ("/health", {}, 405),
    ],
)
def test_invalid_requests_are_refused_with_json(quick: Client, path: str, body: object, status: int) -> None:
    answered, headers, raw = quick.request("POST", path, body)

    assert answered == status
    assert headers["content-type"] == "application/json"
    assert json.loads(raw).keys() & {"error", "detail"}


def test_a_key_is_needed_to_generate_text_but_not_for_health_and_metrics(start: StartEngine) -> None:
    client = start(api_key="sesame", output_tokens=1, ttft_s=0.0)

    def status(**headers: str) -> int:
        return client.request("POST", "/v1/chat/completions", CHAT, headers)[0]

    assert status() == 401
    assert status(Authorization="Bearer wrong") == 401
    assert status(Authorization="Bearer sesame") == 200
    assert client.request("GET", "/metrics")[0] == 200


def test_one_connection_serves_many_requests(quick: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", quick.engine.port, timeout=5)
    connection.connect()
    socket = connection.sock
    for _ in range(3):
        connection.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": True}))
        connection.getresponse().read()

        assert connection.sock is socket
    connection.close()


def test_requests_sent_ahead_on_one_connection_are_answered_in_turn(quick: Client) -> None:
    with quick.connect() as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n" * 2 + b"GET /health HTTP/1.0\r\nHost: t\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data

    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.index(b"simulated engine") < received.index(b"text/plain")


def test_bytes_that_are_not_http_are_answered_with_400_and_closed(quick: Client) -> None:
    with quick.connect() as connection:
        connection.sendall(b"hello engine\r\n\r\n")

        assert quick.read(connection).status == 400


def test_expect_100_continue_is_answered(quick: Client) -> None:
    body = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with quick.connect() as connection:
        connection.sendall(head.encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)

        assert quick.read(connection).status == 200


@pytest.mark.parametrize("form", ["field", "tags", "hidden"])
def test_reasoning_comes_first_in_its_form_and_is_counted(start: StartEngine, form: str) -> None:
    client = start(output_tokens=6, reasoning_tokens=4, reasoning_form=form, ttft_s=0, itl_s=0)
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    events = [json.loads(event) for event in client.events("/v1/chat/completions", body)[:-1]]
    deltas = [event["choices"][0]["delta"] for event in events[1:-2]]
    whole = json.loads(client.request("POST", "/v1/chat/completions", CHAT)[2])["choices"][0]["message"]

    content = "".join(delta.get("content", "") for delta in deltas)
    thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert events[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    assert (whole["content"], whole.get("reasoning_content", "")) == (content, thought)
    assert len(deltas) == (2 if form == "hidden" else 6)
    assert len(thought) == (20 if form == "field" else 0)
    assert (content.find("<think>"), content.find("</think>")) == ((0, 27) if form == "tags" else (-1, -1))
