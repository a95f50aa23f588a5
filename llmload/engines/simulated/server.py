"""The simulated engine: its routes, its life and its death."""

import asyncio
import contextlib
import gc
import importlib.metadata
import signal
import threading
import time
from collections.abc import Callable
from typing import Self

import orjson

from llmload.engines.simulated.asked import Api, Asked, RefusedError, error_body, read_asked
from llmload.engines.simulated.batch import Batch
from llmload.engines.simulated.connection import Connection, Header, Request
from llmload.engines.simulated.faults import HTTP_STATUS, KINDS, FaultDealer
from llmload.engines.simulated.formats import AnswerFacts, format_of
from llmload.engines.simulated.generation import Generation
from llmload.engines.simulated.metrics import EngineCollector, EngineTotals, registry_of, render
from llmload.engines.simulated.settings import SimulationSettings
from llmload.engines.simulated.truth_log import TruthLog
from llmload.errors import EngineError

ENGINE_NAME = "llmload simulated engine"
OWNER = "llmload-simulated"
FAULT_HEADER = "x-simulate-fault"

_GENERATING: dict[str, tuple[Api, bool | None]] = {
    "/v1/chat/completions": (Api.CHAT, None),
    "/v1/completions": (Api.COMPLETIONS, None),
    "/generate_stream": (Api.TGI, True),
    "/generate": (Api.TGI, False),
}
_HTML_ERROR = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_ERROR_TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 429: "RateLimitError"}


class SimulatedEngine:
    """
    One simulated engine in this process: `await start()` and `await close()`, or a context manager in a thread.

    A process that gevent has patched cannot run it: there, `spawn` starts it as a process of its own.
    """

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self.port = settings.port
        self._version = _version()
        self._totals = EngineTotals()
        self._dealer = FaultDealer(settings.faults, settings.seed)
        self._connections: set[Connection] = set()
        self._generating: dict[Connection, Generation] = {}
        self._answered = 0
        self._created_s = int(time.time())
        self._thread: _EngineThread | None = None
        self._plain: dict[str, Callable[[], tuple[bytes, str]]] = {
            "/health": lambda: (b"", "text/plain"),
            "/version": lambda: (orjson.dumps({"version": self._version, "engine": ENGINE_NAME}), "application/json"),
            "/info": self._info,
            "/v1/models": self._models,
            "/metrics": lambda: (render(self._registry), "text/plain; version=0.0.4; charset=utf-8"),
        }

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://{self.settings.host}:{self.port}"

    async def start(self) -> None:
        """Listen; `port` is known afterwards. Raises EngineError where the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._log = TruthLog(self.settings.log)
        self._batch = Batch(self.settings, loop, self._ended)
        collector = EngineCollector(self.settings.model, self._totals, self._batch.gauges)
        self._registry = registry_of(collector)
        try:
            self._server = await loop.create_server(self._connect, self.settings.host, self.settings.port, backlog=1024)
        except OSError as error:
            self._batch.close()
            self._log.close()
            where = f"{self.settings.host}:{self.settings.port}"
            raise EngineError(f"the simulated engine cannot listen on {where}: {error.strerror or error}") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, end every request, close every connection."""
        self._server.close()
        self._batch.close()
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)
        self._log.close()

    def __enter__(self) -> Self:
        self._thread = _EngineThread(self)
        self._thread.start_and_wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._thread is not None:
            self._thread.stop()

    def _connect(self) -> Connection:
        connection = Connection(f"{OWNER}/{self._version}", self._handle, self._left)
        self._connections.add(connection)
        return connection

    def _left(self, connection: Connection) -> None:
        self._connections.discard(connection)
        generation = self._generating.get(connection)
        if generation is not None:
            self._batch.abort(generation)

    def _handle(self, request: Request, connection: Connection) -> None:
        if self._locked(request):
            connection.reply(request, 401, b'{"error":"Unauthorized"}')
        elif request.method == "POST" and request.path in _GENERATING:
            self._generate(request, connection)
        elif request.method == "GET" and request.path in self._plain:
            body, kind = self._plain[request.path]()
            connection.reply(request, 200, body, kind)
        elif request.path in _GENERATING or request.path in self._plain:
            connection.reply(request, 405, b'{"detail":"Method Not Allowed"}')
        else:
            connection.reply(request, 404, b'{"detail":"Not Found"}')

    def _locked(self, request: Request) -> bool:
        """As in vLLM, what only watches the engine needs no key."""
        guarded = request.path.startswith("/v1/") or request.path in _GENERATING
        key = self.settings.api_key
        return guarded and key is not None and request.headers.get("authorization") != f"Bearer {key}"

    def _generate(self, request: Request, connection: Connection) -> None:
        fault = self._fault_of(request)
        try:
            asked = self._read(request, fault)
        except RefusedError as refused:
            self._refuse(request, connection, refused, fault)
            return
        api = asked.api
        request.close_after = fault == "close_after"
        facts = AnswerFacts(
            answer_id=self._answer_id(api, request),
            created_s=int(time.time()),
            model=self.settings.model,
            fingerprint=f"{OWNER}-{self._version}",
            asked=asked,
            usage=fault != "no_usage",
            done=fault != "no_done",
        )
        generation = Generation(request, connection, asked, format_of(facts), fault, self._totals)
        if self.settings.log_chunks:
            generation.chunk_ns = []
        self._generating[connection] = generation
        generation.open()
        self._batch.submit(generation)

    def _fault_of(self, request: Request) -> str | None:
        named = request.headers.get(FAULT_HEADER)
        if named is None:
            return self._dealer.next()
        return None if named == "none" else named

    def _read(self, request: Request, fault: str | None) -> Asked:
        """What is asked for; raises RefusedError where it cannot be had or a fault forbids it."""
        api, stream = _GENERATING[request.path]
        if fault is not None and fault not in KINDS:
            message = f"no fault is called {fault!r}; there are {', '.join(KINDS)}"
            raise RefusedError(400, error_body(api, 400, "BadRequestError", message))
        if fault in HTTP_STATUS:
            status = HTTP_STATUS[fault]
            kind = _ERROR_TYPES.get(status, "InternalServerError")
            raise RefusedError(status, error_body(api, status, kind, f"Simulated fault {fault}."))
        return read_asked(self.settings, api, stream, request.body)

    def _answer_id(self, api: Api, request: Request) -> str:
        self._answered += 1
        return ("chatcmpl-" if api is Api.CHAT else "cmpl-") + (request.request_id or f"{self._answered:016x}")

    def _refuse(self, request: Request, connection: Connection, refused: RefusedError, fault: str | None) -> None:
        more: tuple[Header, ...] = (("retry-after", "1"),) if refused.status == 429 else ()
        body, kind = (_HTML_ERROR, "text/html") if fault == "html_error" else (refused.body, "application/json")
        written_ns = time.monotonic_ns()
        connection.reply(request, refused.status, body, kind, more)
        told = {"status": refused.status, "prompt_tokens": None, "output_tokens": 0, "finish": "error", "fault": fault}
        stamps = {"admitted_ns": None, "first_write_ns": written_ns, "last_write_ns": written_ns}
        self._log.write({**request.truth(), **told, **stamps})

    def _ended(self, generation: Generation) -> None:
        finish = str(generation.finish)
        self._totals.finished[finish] += 1
        if generation.last_write_ns is not None and finish in ("stop", "length"):
            self._totals.e2e.add(generation.last_write_ns - generation.request.received_ns)
        if self._generating.get(generation.connection) is generation:
            del self._generating[generation.connection]
        self._log.write(generation.truth())

    def _models(self) -> tuple[bytes, str]:
        model = {"id": self.settings.model, "object": "model", "created": self._created_s, "owned_by": OWNER}
        more = {"root": self.settings.model, "parent": None, "max_model_len": self.settings.max_model_len_tokens}
        return orjson.dumps({"object": "list", "data": [{**model, **more}]}), "application/json"

    def _info(self) -> tuple[bytes, str]:
        """TGI's way of saying what it is."""
        info = {"model_id": self.settings.model, "version": self._version, "engine": ENGINE_NAME}
        limits = {"max_total_tokens": self.settings.max_model_len_tokens, "max_concurrent_requests": None}
        return orjson.dumps({**info, **limits}), "application/json"


class _EngineThread(threading.Thread):
    """An event loop of its own for an engine that is used as a context manager."""

    def __init__(self, engine: SimulatedEngine) -> None:
        super().__init__(name="simulated-engine", daemon=True)
        self._engine = engine
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def start_and_wait(self) -> None:
        self.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and self.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            await self._engine.start()
        except EngineError as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        await self._stop.wait()
        await self._engine.close()


async def serve(settings: SimulationSettings, *, ready: Callable[[SimulatedEngine], None], stop: asyncio.Event) -> None:
    """Run an engine until `stop` is set; `ready` is called once it listens. Raises EngineError."""
    engine = SimulatedEngine(settings)
    await engine.start()
    ready(engine)
    await stop.wait()
    await engine.close()


def run_until_signal(settings: SimulationSettings, *, until_eof_of: int | None = None) -> None:
    """
    Run an engine until SIGINT or SIGTERM, or until the descriptor `until_eof_of` ends; says where on standard output.

    Raises EngineError where the address cannot be had.
    """
    asyncio.run(_serve_until_signal(settings, until_eof_of))


async def _serve_until_signal(settings: SimulationSettings, until_eof_of: int | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_eof_of is not None:
        loop.add_reader(until_eof_of, stop.set)
    gc.collect()
    gc.freeze()  # what was built before the first request is not walked again: a collection would delay tokens
    with contextlib.suppress(asyncio.CancelledError):
        await serve(settings, ready=_say_ready, stop=stop)


def _say_ready(engine: SimulatedEngine) -> None:
    print(f"simulated engine ready at {engine.url}", flush=True)  # noqa: T201 - the line that a parent waits for


def _version() -> str:
    try:
        return importlib.metadata.version("llmload")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
