"""
The clients as a load test runs them: in a process that gevent has patched from its first line on.

Started as a program; jobs come in on its standard input, `(function, arguments)` by pickle, results go out the same
way. The server they talk to lives in another process, so neither's threads delay the other's.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import contextlib
import gc
import os
import pickle
import resource
import socket
import sys
import time
import traceback
from typing import Any, BinaryIO
from unittest.mock import patch

import gevent
import gevent.server

from llmload.client import ClientKind, make_client
from llmload.client.settings import ClientSettings
from llmload.prompts.conversation import Prompt, as_message
from llmload.record import RequestRecord

HELLO = Prompt("1", (as_message("user", "Say hello."),))


def complete(
    settings: ClientSettings,
    kind: ClientKind,
    *,
    times: int = 1,
    at_once: int = 1,
    prompt: Prompt = HELLO,
    prepared: bool = False,
    salts: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> list[RequestRecord]:
    """Return the records of requests sent by one client, `at_once` users sending `times` each."""
    os.environ.update(environment or {})
    try:
        client = make_client(settings, kind)
        if prepared:
            client.prepare(prompt, salted=bool(salts))

        def user(number: int) -> list[RequestRecord]:
            salt_of = dict(enumerate(salts))
            return [
                client.complete(prompt, request_id=f"{number}-{turn}", salt=salt_of.get(turn)) for turn in range(times)
            ]

        users = [gevent.spawn(user, number) for number in range(at_once)]
        gevent.joinall(users, raise_error=True)
        client.close()
        return [record for sent in users for record in sent.get()]
    finally:
        for name in environment or {}:
            del os.environ[name]


def complete_overdue(settings: ClientSettings, kind: ClientKind, *, ago_s: float) -> list[RequestRecord]:
    """Return the records of a request in time, and of one that was due so long ago."""
    client = make_client(settings, kind)
    in_time = client.complete(HELLO, request_id="1")
    overdue = client.complete(HELLO, request_id="2", scheduled_ns=time.monotonic_ns() - round(ago_s * 1e9))
    client.close()
    return [in_time, overdue]


def complete_at(addresses: list[str], settings: ClientSettings, kind: ClientKind, **named: Any) -> list[RequestRecord]:
    """Return what `complete` does while every name has these addresses."""

    def resolve(_: str, port: int, *__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    with patch("gevent.socket.getaddrinfo", side_effect=resolve):
        return complete(settings, kind, **named)


def complete_and_kill(settings: ClientSettings, kind: ClientKind, *, after_s: float, by: str) -> list[RequestRecord]:
    """Return the record of a request whose greenlet is killed, or timed out from outside, while it waits."""
    client = make_client(settings, kind)

    def user() -> RequestRecord:
        limit = gevent.Timeout(after_s) if by == "timeout" else contextlib.nullcontext()
        with limit:
            return client.complete(HELLO, request_id="1")

    waiting = gevent.spawn(user)
    if by == "kill":
        gevent.sleep(after_s)
        waiting.kill()
    waiting.join()
    client.close()
    return [waiting.get()]


def complete_while_stalled(settings: ClientSettings, *, stall_s: float) -> list[RequestRecord]:
    """Return the record of a request during which the whole process stalls most of the time."""
    client = make_client(settings, "wire")
    waiting = gevent.spawn(client.complete, HELLO, request_id="1")
    stand_still = monkey.get_original("time", "sleep")
    while not waiting.ready():
        gevent.sleep(0.004)
        stand_still(stall_s)
    client.close()
    return [waiting.get()]


def serve_many(at_once: int, tokens: int, pause_s: float) -> tuple[list[RequestRecord], int]:
    """Return the records of streams served and read in this process, and the maximum open at once."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"ab"},"finish_reason":null}]}\n\n'
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    most = now = 0

    def serve(sock: Any, _: Any) -> None:
        nonlocal most, now
        stream = sock.makefile("rb")
        while stream.readline():
            length = 0
            while (line := stream.readline()).strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line[15:])
            stream.read(length)
            now += 1
            most = max(most, now)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _token in range(tokens):
                sock.sendall(b"%x\r\n%s\r\n" % (len(event), event))
                gevent.sleep(pause_s)
            now -= 1
            sock.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(last), last))

    server = gevent.server.StreamServer(("127.0.0.1", 0), serve, backlog=4096)
    server.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = ClientSettings(base_urls=(f"http://127.0.0.1:{server.server_port}",), model="m")
    records = complete(settings, "wire", times=2, at_once=at_once)
    server.stop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return records, most


def memory_of(settings: ClientSettings, *, at_once: int) -> tuple[list[RequestRecord], float, float]:
    """Return the records of streams, and the memory in MB that they took at the end and left behind."""
    complete(settings, "wire")
    gc.collect()
    before = _resident_mb()
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, _resident_mb())
            gevent.sleep(0.01)

    watching = gevent.spawn(watch)
    records = complete(settings, "wire", at_once=at_once)
    watching.kill()
    gc.collect()
    return records, peak - before, _resident_mb() - before


_usual_mb: list[float] = []


def peak_of(settings: ClientSettings, kind: ClientKind, *, at_once: int) -> tuple[list[RequestRecord], float]:
    """Return the records of requests, and their peak of memory in MB above that of the process at its first call."""
    if not _usual_mb:
        complete(settings, "wire", at_once=at_once)
        complete(settings, "openai", at_once=at_once)
        gc.collect()
        _usual_mb.append(_resident_mb())
    with open("/proc/self/clear_refs", "w") as peak:  # noqa: PTH123 - the shortest way
        peak.write("5")  # resets VmHWM
    records = complete(settings, kind, at_once=at_once)
    with open("/proc/self/status") as status:  # noqa: PTH123 - the shortest way
        peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return records, peak_kib * 1024 / 1e6 - _usual_mb[0]


def cpu_share_while_idle(settings: ClientSettings, for_s: float) -> float:
    """Return the share of a core that a client with an open, idle connection takes."""
    client = make_client(settings, "wire")
    client.complete(HELLO, request_id="1")
    gevent.sleep(0.1)
    before_s = time.process_time()
    gevent.sleep(for_s)
    client.close()
    return (time.process_time() - before_s) / for_s


def complete_in_fork(settings: ClientSettings, kind: ClientKind) -> tuple[list[RequestRecord], list[RequestRecord]]:
    """Return the records of requests sent before a fork, in the parent after it, and in the child, by one client."""
    client = make_client(settings, kind)
    mine = [client.complete(HELLO, request_id="before")]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        theirs = [client.complete(HELLO, request_id="child")]
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(theirs, pipe)
        os._exit(0)
    os.close(writer)
    mine.append(client.complete(HELLO, request_id="after"))
    with os.fdopen(reader, "rb") as pipe:
        theirs = pickle.load(pipe)  # noqa: S301 - from our own child
    os.waitpid(child, 0)
    client.close()
    return mine, theirs


def without_kernel_stamps(job: str, *arguments: Any, **named: Any) -> Any:
    """Do a job without kernel stamps."""
    with patch("llmload.client.transport.enable_timestamps", return_value=False):
        return globals()[job](*arguments, **named)


def _resident_mb() -> float:
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - the shortest way
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    """Do jobs until standard input ends."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with results, open(0, "rb", closefd=False) as jobs:
        while job := next_job(jobs):
            name, arguments, named = job
            try:
                result: Any = (True, globals()[name](*arguments, **named))
            except BaseException:  # noqa: BLE001 - the test is to show it
                result = (False, traceback.format_exc())
            pickle.dump(result, results)
            results.flush()


def next_job(jobs: BinaryIO) -> Any:
    """Return the next job, or None at the end of them."""
    try:
        return pickle.load(jobs)  # noqa: S301 - from the tests that started us
    except EOFError:
        return None


if __name__ == "__main__":
    sys.modules["patched"] = sys.modules["__main__"]
    main()
