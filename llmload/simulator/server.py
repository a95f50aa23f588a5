"""Running a simulated engine: in an event loop, in a thread, until a signal, or as a separate process."""

import asyncio
import dataclasses
import gc
import importlib.metadata
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from llmload.errors import ConfigError, EngineError
from llmload.simulator.batch import Batch
from llmload.simulator.connection import ServerConnection
from llmload.simulator.metrics import TruthLog
from llmload.simulator.routes import OWNER, Routes
from llmload.simulator.settings import SimulationSettings

READY = "simulated engine ready at "
STOP_TIMEOUT_S = 5.0


class SpawnedEngine:
    """A running engine process; leaving its context stops it, and so does the end of this process."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def spawn(settings: SimulationSettings) -> SpawnedEngine:
    """Start an engine process and wait until it listens; raises `EngineError` if it does not."""
    command = [sys.executable, "-m", "llmload.simulator"]
    process = subprocess.Popen(  # noqa: S603 - this very interpreter
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(to_line(settings) + "\n")
    process.stdin.flush()
    line = process.stdout.readline().strip()
    if not line.startswith(READY):
        SpawnedEngine(process, ":0").stop()
        raise EngineError(line or f"the simulated engine ended with status {process.returncode} before it listened")
    return SpawnedEngine(process, line.removeprefix(READY))


def to_line(settings: SimulationSettings) -> str:
    """Return the settings as one line of JSON, for standard input: a key would be visible in the process list."""
    return orjson.dumps(dataclasses.asdict(settings), default=str).decode()


def from_line(line: str) -> SimulationSettings:
    """Return the settings that `to_line` wrote."""
    fields: dict[str, Any] = orjson.loads(line)
    return SimulationSettings(**{**fields, "log": None if fields["log"] is None else Path(fields["log"])})


_BACKLOG = 1024


class SimulatedEngine:
    """
    One simulated engine in this process: `await start()` and `await close()`, or a context manager in a thread.

    A process that gevent has patched cannot run it; `spawn` starts it as a separate process.
    """

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.port = settings.port
        self._version = _version()
        self._connections: set[ServerConnection] = set()
        self._thread: _EngineThread | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://{self.settings.host}:{self.port}"

    async def start(self) -> None:
        """Listen; `port` is known afterwards. Raises ConfigError for an unusable log, EngineError for the address."""
        loop = asyncio.get_running_loop()
        self._log = _open_log(self.settings)
        self._batch = Batch(self.settings, loop, lambda generation: self._routes.on_ended(generation))
        self._routes = Routes(self.settings, self._version, self._batch, self._log)
        host, port = self.settings.host, self.settings.port
        try:
            self._server = await loop.create_server(self._connect, host, port, backlog=_BACKLOG)
        except OSError as error:
            self._batch.close()
            self._log.close()
            raise EngineError(f"the simulated engine cannot listen on {host}:{port}: {_reason(error)}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, end every request, close every connection."""
        self._server.close()
        self._batch.close()
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # lets the aborted transports close their sockets
        self._log.close()

    def __enter__(self) -> Self:
        self._thread = _EngineThread(self)
        self._thread.start_and_wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._thread is not None:
            self._thread.stop()

    def _connect(self) -> ServerConnection:
        connection = ServerConnection(f"{OWNER}/{self._version}", self._routes.handle, self._on_disconnect)
        self._connections.add(connection)
        return connection

    def _on_disconnect(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        self._routes.on_disconnect(connection)


class _EngineThread(threading.Thread):
    """A thread with an event loop, for an engine that is used as a context manager."""

    def __init__(self, engine: SimulatedEngine) -> None:
        super().__init__(name="simulated-engine", daemon=True)
        self._engine = engine
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_requested: asyncio.Event | None = None

    def start_and_wait(self) -> None:
        self.start()
        self._ready.wait()
        if self._failure is not None:
            self.join()
            raise self._failure

    def stop(self) -> None:
        if self._loop is not None and self._stop_requested is not None and self.is_alive():
            self._loop.call_soon_threadsafe(self._stop_requested.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop_requested = asyncio.get_running_loop(), asyncio.Event()
        try:
            await serve(self._engine, ready=lambda _engine: self._ready.set(), stop=self._stop_requested)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error
        finally:
            self._ready.set()


async def serve(engine: SimulatedEngine, *, ready: Callable[[SimulatedEngine], None], stop: asyncio.Event) -> None:
    """Run an engine until `stop` is set; `ready` is called once it listens. Raises what `start` raises."""
    await engine.start()
    ready(engine)
    await stop.wait()
    await engine.close()


def run_until_signal(settings: SimulationSettings, *, until_eof_of: int | None = None) -> None:
    """
    Run an engine until SIGINT or SIGTERM, or the end of the descriptor `until_eof_of`; prints its URL.

    Raises ConfigError for a log that cannot be written, EngineError for an address that cannot be used.
    """
    asyncio.run(_serve_until_signal(SimulatedEngine(settings), until_eof_of))


async def _serve_until_signal(engine: SimulatedEngine, until_eof_of: int | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_eof_of is not None:
        loop.add_reader(until_eof_of, stop.set)
    gc.collect()
    gc.freeze()  # garbage collections of what exists before the first request would delay tokens
    await serve(engine, ready=_say_ready, stop=stop)


def _say_ready(engine: SimulatedEngine) -> None:
    print(f"{READY}{engine.url}", flush=True)  # noqa: T201 - the line that a parent waits for


def _open_log(settings: SimulationSettings) -> TruthLog:
    try:
        return TruthLog(settings.log)
    except OSError as error:
        raise ConfigError(f"simulated engine: log = {settings.log} cannot be written: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _version() -> str:
    try:
        return importlib.metadata.version("llmload")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
