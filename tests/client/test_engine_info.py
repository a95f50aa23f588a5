"""What is said of an engine that cannot be reached: the mistake, and the remedy."""

import json
import math
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from llmload.access.secrecy import Access
from llmload.client.said import listed
from llmload.client.settings import EngineInfo, ask_engine, is_ready
from llmload.errors import EngineError
from llmload.runs.reading import MAX_JSON_BYTES, read_object
from tests.client.scripted_server import ScriptedServer, answer

Serve = Callable[..., ScriptedServer]
MODELS = ["read", answer(b'{"data": []}')]


@pytest.mark.parametrize(
    ("answers", "version", "context"),
    [
        (
            {"/version": {"version": "0.32.0"}, "/v1/models": {"data": [{"id": "m", "max_model_len": 2048}]}},
            "0.32.0",
            2048,
        ),
        ({"/info": {"version": "3.3.0", "max_total_tokens": 4096}}, "3.3.0", 4096),
        ({"/props": {"build_info": "b1-c", "default_generation_settings": {"n_ctx": 512}}}, "b1-c", 512),
        ({"/props": {"default_generation_settings": []}, "/info": [], "/version": "1"}, None, None),
    ],
    ids=["vllm", "tgi", "llama.cpp", "other"],
)
def test_version_and_context_are_as_the_engine_says(
    answers: dict[str, Any], version: str | None, context: int | None
) -> None:
    found = EngineInfo(base_url="http://e", answers=answers)

    assert (found.version, found.max_model_len) == (version, context)


def complaint(url: str) -> str:
    with pytest.raises(EngineError) as refusal:
        ask_engine(url)
    return str(refusal.value)


def test_plain_http_behind_an_https_url(serve: Serve) -> None:
    server = serve(["reset"], MODELS)

    text = complaint(server.url.replace("http", "https"))

    assert text.endswith("answers by http only: write http:// in engine.base_url")


def test_https_behind_a_plain_url(serve: Serve, server_tls: ssl.SSLContext) -> None:
    server = serve(MODELS, tls=server_tls)

    text = complaint(server.url.replace("https", "http"))

    assert text.endswith("answers by https only: write https:// in engine.base_url")


def test_a_certificate_that_is_not_trusted(serve: Serve, server_tls: ssl.SSLContext) -> None:
    server = serve(MODELS, tls=server_tls)

    text = complaint(server.url)

    assert text.startswith(f"the certificate of {server.url} is not trusted (")
    assert text.endswith("set engine.ca_file, or engine.verify_tls = false")


def test_a_host_without_an_address() -> None:
    assert complaint("http://no-such-host.invalid").startswith("the host of http://no-such-host.invalid has no address")


def test_a_proxy_that_is_down(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(MODELS)
    monkeypatch.setenv("http_proxy", "http://me:hunter2@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    text = complaint(server.url)

    assert text.startswith(f"the proxy in http_proxy does not reach {server.url}")
    assert "hunter2" not in text


def test_something_else_than_http(serve: Serve) -> None:
    server = serve(["read", b"SSH-2.0-OpenSSH\r\n", "reset"], ["reset"])

    assert "does not speak HTTP" in complaint(server.url)


def test_nothing_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    assert complaint(f"http://127.0.0.1:{port}").startswith(f"the engine at http://127.0.0.1:{port} does not answer")


def test_a_redirect_to_another_origin_gets_no_key(serve: Serve) -> None:
    other = serve(MODELS)
    server = serve(["read", answer(b"", "302 Found", more=f"Location: {other.url}/v1/models\r\n")])

    with pytest.raises(EngineError) as refusal:
        ask_engine(server.url, access=Access(api_key="sk-secret1"))

    assert str(refusal.value).endswith(f"give that address, {other.url}, in engine.base_url")
    assert b"sk-secret1" in server.requests[0]
    assert (len(server.requests), other.connections) == (1, 0)


KEY = "sk-secret1"
HOSTILE: dict[str, Any] = {
    "key": {"data": [{"id": f"m-{KEY}"}], KEY: [{"auth": b64encode(f"Bearer {KEY}".encode()).decode()}]},
    "part of a key": {"data": [{"id": "m", "note": "your key sk-secre"}], "url": quote(f"http://u:{KEY}/@h")},
    "hexadecimal": {"note": KEY.encode().hex()},
    "many models": {"data": [{"id": f"model {number}"} for number in range(30_000)]},
    "a long name": {"data": [{"id": "x" * 900_000}]},
    "many keys": {str(number): [number] for number in range(50_000)},
    "nested": {"a": json.loads("[" * 400 + "]" * 400)},
    "wide and deep": [[[[[[[[[[[[[[0] * 100_000]]]]]]]]]]]]],
    "numbers": {"a": 1e300, "b": 10**30, "c": -1e19, "d": math.nan},
    "hard to search": {"note": "sk-s" * 200_000},
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE)
def test_what_an_engine_says_of_itself_is_kept_bounded_and_without_keys(
    serve: Serve, tmp_path: Path, said: Any
) -> None:
    body, none = answer(json.dumps(said).encode()), answer(b"", "404 Not Found")
    server = serve(["read", body], ["read", none], ["read", none], ["read", none])

    found = ask_engine(server.url, access=Access(api_key=KEY)).to_dict()
    (tmp_path / "file.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))

    kept = read_object(tmp_path / "file.json")
    assert (tmp_path / "file.json").stat().st_size < MAX_JSON_BYTES / 3
    assert "secre" not in str(kept)
    assert kept["answers"].keys() == {"/v1/models"}
    assert len(kept["models"]) <= 1000


def test_a_message_names_some_models_without_keys() -> None:
    names = [f"m-{KEY}", "y" * 500, *map(str, range(50))]

    assert (
        listed(names, lambda text: text.replace(KEY, "***"))
        == f"m-***, {'y' * 200}..., {', '.join(map(str, range(8)))} and 42 more"
    )


def test_a_redirect_within_the_origin_is_followed(serve: Serve) -> None:
    moved = answer(b"", "307 Moved", more="Location: /v1/models/\r\n")
    server = serve(["read", moved], ["read", answer(b'{"data": [{"id": "m"}]}')])

    assert ask_engine(server.url, access=Access(api_key="sk-secret1")).models == ("m",)
    assert all(b"sk-secret1" in request for request in server.requests[:2])


def test_headers_and_query_go_with_each_question_and_no_secret_comes_back(serve: Serve) -> None:
    echo = answer(b'{"version": "1 abc123xyz YWJjMTIzeHl6", "data": [{"id": "m"}]}')
    server = serve(*[["read", echo]] * 5)
    access = Access(headers={"X-Title": "t"}, secret_headers={"X-Gate": "abc123xyz"})

    found = ask_engine(f"{server.url}/openai/v1/?api-version=1", access=access)

    heads = [request.decode().split("\r\n") for request in server.requests]
    assert [head[0].split()[1] for head in heads] == [
        f"/openai{path}?api-version=1" for path in ("/v1/models", "/version", "/info", "/props", "/health")
    ]
    for head in heads:
        assert {"x-title: t", "x-gate: abc123xyz"} <= {line.lower() for line in head}
    assert found.models == ("m",)
    assert found.version == "1 *** ***"
    assert "abc123xyz" not in repr(found.to_dict())


def test_refused_headers_are_named(serve: Serve) -> None:
    server = serve(["read", answer(b"{}", "401 No")])

    with pytest.raises(
        EngineError, match=r"answers 401: are the values of engine\.headers, and their names"
    ) as refusal:
        ask_engine(server.url, access=Access(secret_headers={"X-Gate": "abc123xyz"}))

    assert "abc123xyz" not in str(refusal.value)


@pytest.mark.parametrize(
    ("statuses", "ready"),
    [
        (["200 OK"], True),
        (["503 Loading"], False),
        (["404 No", "200 OK"], True),
        (["404 No", "503 Loading"], False),
        (["405 No", "404 No"], None),
    ],
)
def test_an_engine_is_ready_if_it_says_so_or_has_no_way_to(
    statuses: list[str], ready: bool | None, serve: Serve
) -> None:
    for unknown in (True, False):
        server = serve(*[["read", answer(b"{}", status)] for status in statuses])

        assert is_ready(server.url, if_it_does_not_say=unknown) == (unknown if ready is None else ready)


@pytest.mark.parametrize("statuses", [["401 No"], ["404 No", "403 No"]])
def test_an_engine_that_refuses_the_key_is_not_waited_for(statuses: list[str], serve: Serve) -> None:
    server = serve(*[["read", answer(b"{}", status)] for status in statuses])

    with pytest.raises(
        EngineError, match=r"answers 40[13]: is the key in engine\.api_key_env's variable the right one"
    ):
        is_ready(server.url, access=Access(api_key="wrong"))
