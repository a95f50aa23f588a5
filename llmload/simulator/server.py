"""The simulated engine's life: its answers by path, in a loop, in a thread, or as a process."""

import asyncio
import dataclasses
import gc
import importlib.metadata
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from llmload.errors import ConfigError, EngineError
from llmload.simulator.batch import Batch, Generation, PrefixCache
from llmload.simulator.connection import Header, ReceivedRequest, ServerConnection
from llmload.simulator.metrics import EngineCollector, EngineTotals, TruthLog, registry_of, render
from llmload.simulator.protocol import (
    AnswerFacts,
    ApiStyle,
    ParsedRequest,
    RefusedError,
    error_body,
    format_of,
    parse_request,
    tokenized,
)
from llmload.simulator.settings import FAULT_STATUS, FAULTS, FaultPicker, SimulationSettings
from llmload.units import NS_PER_S

# The answer to each path.

ENGINE_NAME = "llmload simulated engine"
OWNER = "llmload-simulated"
TOKENIZE = "/tokenize"
FAULT_HEADER = "x-simulate-fault"
RESET_PREFIX_CACHE = "/reset_prefix_cache"

_GENERATING: dict[str, tuple[ApiStyle, bool | None]] = {
    "/v1/chat/completions": (ApiStyle.CHAT, None),
    "/v1/completions": (ApiStyle.COMPLETIONS, None),
    "/generate_stream": (ApiStyle.TGI, True),
    "/generate": (ApiStyle.TGI, False),
}
_HTML_ERROR = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_ERROR_TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 429: "RateLimitError"}

Page = tuple[bytes, str]
"""A body and its content type."""


class Routes:
    """Answers each request of each connection, counts it and logs it."""

    def __init__(self, settings: SimulationSettings, version: str, batch: Batch, log: TruthLog) -> None:
        self._settings = settings
        self._version = version
        self._batch = batch
        self._log = log
        self._totals = EngineTotals()
        self._registry = registry_of(
            EngineCollector(
                settings.model,
                self._totals,
                batch.gauges,
                settings.draft_tokens,
                settings.accepted_draft_tokens,
            )
        )
        self._cache = PrefixCache(settings.prefix_cache_tokens) if settings.prefix_cache_tokens else None
        self._fault_picker = FaultPicker(settings.faults, settings.seed)
        self._generating: dict[ServerConnection, Generation] = {}
        self._answered = 0
        self._created_s = int(time.time())
        self._pages: dict[str, Callable[[], Page]] = {
            "/health": lambda: (b"", "text/plain"),
            "/version": lambda: _json({"version": version, "engine": ENGINE_NAME}),
            "/info": self._info,
            "/v1/models": self._models,
            "/metrics": lambda: (render(self._registry), "text/plain; version=0.0.4; charset=utf-8"),
        }

    def handle(self, request: ReceivedRequest, connection: ServerConnection) -> None:
        """Answer a request, at once or as tokens fall due."""
        generating = request.path in _GENERATING
        tokenizing = request.path == TOKENIZE and self._settings.tokenize
        if self._unauthorized(request):
            connection.reply(request, 401, b'{"error":"Unauthorized"}')
        elif generating and request.method == "POST":
            self._generate(request, connection)
        elif tokenizing and request.method == "POST":
            self._tokenize(request, connection)
        elif request.path in self._pages and request.method == "GET":
            connection.reply(request, 200, *self._pages[request.path]())
        elif request.path == RESET_PREFIX_CACHE and request.method == "POST":
            self._cache = PrefixCache(self._settings.prefix_cache_tokens) if self._cache is not None else None
            connection.reply(request, 200, *_json({"success": True}))
        elif generating or tokenizing or request.path in {*self._pages, RESET_PREFIX_CACHE}:
            connection.reply(request, 405, b'{"detail":"Method Not Allowed"}')
        else:
            connection.reply(request, 404, b'{"detail":"Not Found"}')

    def on_disconnect(self, connection: ServerConnection) -> None:
        """End the request that a disconnected client was waiting for."""
        generation = self._generating.get(connection)
        if generation is not None:
            self._batch.abort(generation)

    def on_ended(self, generation: Generation) -> None:
        """Count and log a request that left the batch."""
        finish = str(generation.finish)
        self._totals.finished[finish] += 1
        if generation.last_write_ns is not None and finish in ("stop", "length"):
            self._totals.e2e.add(generation.last_write_ns - generation.arrived_ns)
            self._count_parts(generation)
        if self._generating.get(generation.connection) is generation:
            del self._generating[generation.connection]
        self._log.write(generation.truth_line())

    def _count_parts(self, generation: Generation) -> None:
        admitted_ns, first_ns, last_ns = generation.admitted_ns, generation.first_write_ns, generation.last_write_ns
        if admitted_ns is None or first_ns is None or last_ns is None:
            return
        self._totals.queue.add(admitted_ns - generation.arrived_ns)
        self._totals.prefill.add(first_ns - admitted_ns)
        self._totals.decode.add(last_ns - first_ns)
        self._totals.drafts += round((generation.tokens - 1) / (1 + self._settings.accepted_draft_tokens))

    def _unauthorized(self, request: ReceivedRequest) -> bool:
        """Return whether the request lacks the key; as in vLLM, health and metrics need none."""
        guarded = request.path.startswith("/v1/") or request.path in (*_GENERATING, TOKENIZE)
        key = self._settings.api_key
        return guarded and key is not None and request.headers.get("authorization") != f"Bearer {key}"

    def _tokenize(self, request: ReceivedRequest, connection: ServerConnection) -> None:
        try:
            connection.reply(request, 200, *_json(tokenized(self._settings, request.body)))
        except RefusedError as refused:
            connection.reply(request, refused.status, refused.body, "application/json")

    def _generate(self, request: ReceivedRequest, connection: ServerConnection) -> None:
        fault = self._fault_of(request)
        try:
            parsed = self._read(request, fault)
        except RefusedError as refused:
            self._refuse(request, connection, refused, fault)
            return
        if self._cache is not None:
            parsed = dataclasses.replace(parsed, cached_tokens=self._cache.take(parsed.token_text))
            self._totals.prefix_cache_queries += parsed.prompt_tokens
            self._totals.prefix_cache_hits += parsed.cached_tokens or 0
        request.close_after = fault == "close_after"
        answer_format = format_of(self._facts(request, parsed, fault))
        generation = Generation(request, connection, parsed, answer_format, fault, self._totals)
        if self._settings.log_chunks:
            generation.chunk_ns = []
        generation.metered = self._settings.per_request_metrics
        generation.arrived_ns += round(self._settings.proxy_s * NS_PER_S)
        self._generating[connection] = generation
        generation.open()
        self._batch.submit(generation)

    def _fault_of(self, request: ReceivedRequest) -> str | None:
        named = request.headers.get(FAULT_HEADER)
        if named is None:
            return self._fault_picker.next()
        return None if named == "none" else named

    def _read(self, request: ReceivedRequest, fault: str | None) -> ParsedRequest:
        """Parse the request; raises `RefusedError` if it is invalid or a fault refuses it."""
        api, stream = _GENERATING[request.path]
        if fault is not None and fault not in FAULTS:
            message = f"no fault is called {fault!r}; there are {', '.join(FAULTS)}"
            raise RefusedError(400, error_body(api, 400, "BadRequestError", message))
        if fault in FAULT_STATUS:
            status = FAULT_STATUS[fault]
            kind = _ERROR_TYPES.get(status, "InternalServerError")
            raise RefusedError(status, error_body(api, status, kind, f"Simulated fault {fault}."))
        return parse_request(self._settings, api, stream, request.body)

    def _facts(self, request: ReceivedRequest, parsed: ParsedRequest, fault: str | None) -> AnswerFacts:
        self._answered += 1
        prefix = "chatcmpl-" if parsed.api is ApiStyle.CHAT else "cmpl-"
        return AnswerFacts(
            answer_id=prefix + (request.request_id or f"{self._answered:016x}"),
            created_s=int(time.time()),
            model=self._settings.model,
            fingerprint=f"{OWNER}-{self._version}",
            parsed=parsed,
            usage=fault != "no_usage",
            done=fault != "no_done",
        )

    def _refuse(
        self, request: ReceivedRequest, connection: ServerConnection, refused: RefusedError, fault: str | None
    ) -> None:
        extra: tuple[Header, ...] = (("retry-after", "1"),) if refused.status == 429 else ()
        body, kind = (_HTML_ERROR, "text/html") if fault == "html_error" else (refused.body, "application/json")
        written_ns = time.monotonic_ns()
        connection.reply(request, refused.status, body, kind, extra)
        outcome = {
            "status": refused.status,
            "prompt_tokens": None,
            "output_tokens": 0,
            "finish": "error",
            "fault": fault,
        }
        stamps = {"admitted_ns": None, "first_write_ns": written_ns, "last_write_ns": written_ns}
        self._log.write({**request.truth_fields(), **outcome, **stamps})

    def _models(self) -> Page:
        model = {"id": self._settings.model, "object": "model", "created": self._created_s, "owned_by": OWNER}
        extra = {"root": self._settings.model, "parent": None, "max_model_len": self._settings.max_model_len_tokens}
        return _json({"object": "list", "data": [{**model, **extra}]})

    def _info(self) -> Page:
        """Return the answer to TGI's `/info`."""
        info = {"model_id": self._settings.model, "version": self._version, "engine": ENGINE_NAME}
        return _json({**info, "max_total_tokens": self._settings.max_model_len_tokens})


def _json(value: object) -> Page:
    return orjson.dumps(value), "application/json"


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
    process = subprocess.Popen(  # noqa: S603 - this interpreter
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
