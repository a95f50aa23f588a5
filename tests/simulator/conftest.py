"""A plain client: real sockets, no parser of llmload's own."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmload.simulator import SimulationSettings, SpawnedEngine, spawn


class Exchange:
    """What came over one connection: (CLOCK_MONOTONIC ns, bytes) a read, and how it ended."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, bytes]] = []
        self.ended = "open"

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.reads)

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    @property
    def head(self) -> str:
        return self.data.partition(b"\r\n\r\n")[0].decode()

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def whole_body(self) -> bool:
        """Whether a chunked body came to its end."""
        return self.body.endswith(b"0\r\n\r\n")

    @property
    def token_chunks(self) -> int:
        return self.body.count(b'"content":" ')


class Client:
    """Sends requests to one engine, each on a new connection."""

    def __init__(self, engine: SpawnedEngine, log: Path) -> None:
        self.engine = engine
        self.log = log

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.engine.port), timeout=5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.engine.port, timeout=5)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, sent, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> bytes:
        return self.request("GET", path)[2]

    def events(self, path: str, body: object, headers: dict[str, str] | None = None) -> list[str]:
        """The data of each event of a stream, the way the standard cuts them."""
        status, _, raw = self.request("POST", path, body, headers)
        assert status == 200
        return [event.removeprefix("data:").lstrip(" ") for event in raw.decode().split("\n\n") if event]

    def chat(
        self,
        text: str = "hi",
        *,
        fault: str | None = None,
        more: Mapping[str, object] | None = None,
        quiet_s: float = 0.4,
    ) -> Exchange:
        """One streamed chat, read until its end, the end of the connection, or `quiet_s` without a byte."""
        with self.connect() as connection:
            connection.sendall(raw_chat(text, fault, more))
            return self.read(connection, quiet_s)

    def read(self, connection: socket.socket, quiet_s: float = 0.4) -> Exchange:
        seen = Exchange()
        connection.settimeout(quiet_s)
        while not _complete(seen):
            try:
                data = connection.recv(65536)
            except TimeoutError:
                seen.ended = "quiet"
                break
            except ConnectionResetError:
                seen.ended = "reset"
                break
            if not data:
                seen.ended = "closed"
                break
            seen.reads.append((time.monotonic_ns(), data))
        return seen

    def truth(self, count: int, wait_s: float = 2.0) -> list[dict[str, Any]]:
        """The log once it has `count` lines: they are written just after the last byte."""
        until = time.monotonic() + wait_s
        while True:
            lines = self.log.read_text().splitlines()
            if len(lines) >= count or time.monotonic() > until:
                break
            time.sleep(0.005)
        assert len(lines) == count
        return [json.loads(line) for line in lines]

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self.get("/metrics").decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


StartEngine = Callable[..., Client]
"""Starts an engine with these settings, and gives a client of it."""


def raw_chat(text: str = "hi", fault: str | None = None, more: Mapping[str, object] | None = None) -> bytes:
    fields = {"model": "simulated", "messages": [{"role": "user", "content": text}], "stream": True, **(more or {})}
    body = json.dumps(fields).encode()
    header = f"X-Simulate-Fault: {fault}\r\n" if fault else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n{header}\r\n"
    return head.encode() + body


def _complete(seen: Exchange) -> bool:
    data = seen.data
    if b"\r\n\r\n" not in data:
        return False
    if b"content-length: " in data:
        length = int(data.split(b"content-length: ")[1].split(b"\r\n")[0])
        return len(seen.body) >= length
    return seen.whole_body


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartEngine]:
    """Starts engines that write a truth log; they stop when the tests end."""
    engines: list[SpawnedEngine] = []

    def start_engine(**overrides: Any) -> Client:
        log = tmp_path_factory.mktemp("engine") / "truth.jsonl"
        engines.append(spawn(SimulationSettings(log=log, **overrides)))
        return Client(engines[-1], log)

    yield start_engine
    for engine in engines:
        engine.stop()


@pytest.fixture(scope="session")
def quick(start: StartEngine) -> Client:
    """6 tokens, 10 ms to the first, 5 ms between two: for what does not hang on time."""
    return start(ttft_s=0.01, prefill_s_per_token=0.0, itl_s=0.005, itl_load_factor=0.0, output_tokens=6)
