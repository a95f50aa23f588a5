"""What is answered to which path."""

import dataclasses
import time
from collections.abc import Callable

import orjson

from llmload.simulator.batch import Batch, Generation, PrefixCache
from llmload.simulator.connection import Connection, Header, Request
from llmload.simulator.metrics import EngineCollector, EngineTotals, TruthLog, registry_of, render
from llmload.simulator.protocol import AnswerFacts, Api, Asked, RefusedError, error_body, format_of, read_asked
from llmload.simulator.settings import HTTP_STATUS, KINDS, FaultDealer, SimulationSettings

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

Page = tuple[bytes, str]
"""A body and its content type."""


class Routes:
    """Answers each request of each connection, counts it and writes it down."""

    def __init__(self, settings: SimulationSettings, version: str, batch: Batch, log: TruthLog) -> None:
        self._settings = settings
        self._version = version
        self._batch = batch
        self._log = log
        self._totals = EngineTotals()
        self._registry = registry_of(EngineCollector(settings.model, self._totals, batch.gauges))
        self._cache = PrefixCache(settings.prefix_cache_tokens) if settings.prefix_cache_tokens else None
        self._dealer = FaultDealer(settings.faults, settings.seed)
        self._generating: dict[Connection, Generation] = {}
        self._answered = 0
        self._created_s = int(time.time())
        self._pages: dict[str, Callable[[], Page]] = {
            "/health": lambda: (b"", "text/plain"),
            "/version": lambda: _json({"version": version, "engine": ENGINE_NAME}),
            "/info": self._info,
            "/v1/models": self._models,
            "/metrics": lambda: (render(self._registry), "text/plain; version=0.0.4; charset=utf-8"),
        }

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer one request, now or as tokens fall due."""
        generating = request.path in _GENERATING
        if self._locked(request):
            connection.reply(request, 401, b'{"error":"Unauthorized"}')
        elif generating and request.method == "POST":
            self._generate(request, connection)
        elif request.path in self._pages and request.method == "GET":
            connection.reply(request, 200, *self._pages[request.path]())
        elif generating or request.path in self._pages:
            connection.reply(request, 405, b'{"detail":"Method Not Allowed"}')
        else:
            connection.reply(request, 404, b'{"detail":"Not Found"}')

    def left(self, connection: Connection) -> None:
        """The client is gone; what it waited for ends."""
        generation = self._generating.get(connection)
        if generation is not None:
            self._batch.abort(generation)

    def ended(self, generation: Generation) -> None:
        """A request left the batch: count it and write it down."""
        finish = str(generation.finish)
        self._totals.finished[finish] += 1
        if generation.last_write_ns is not None and finish in ("stop", "length"):
            self._totals.e2e.add(generation.last_write_ns - generation.request.received_ns)
        if self._generating.get(generation.connection) is generation:
            del self._generating[generation.connection]
        self._log.write(generation.truth())

    def _locked(self, request: Request) -> bool:
        """As in vLLM, what only watches the engine needs no key."""
        guarded = request.path.startswith("/v1/") or request.path in _GENERATING
        key = self._settings.api_key
        return guarded and key is not None and request.headers.get("authorization") != f"Bearer {key}"

    def _generate(self, request: Request, connection: Connection) -> None:
        fault = self._fault_of(request)
        try:
            asked = self._read(request, fault)
        except RefusedError as refused:
            self._refuse(request, connection, refused, fault)
            return
        if self._cache is not None:
            asked = dataclasses.replace(asked, cached_tokens=self._cache.take(asked.token_text))
            self._totals.prefix_cache_queries += asked.prompt_tokens
            self._totals.prefix_cache_hits += asked.cached_tokens or 0
        request.close_after = fault == "close_after"
        form = format_of(self._facts(request, asked, fault))
        generation = Generation(request, connection, asked, form, fault, self._totals)
        if self._settings.log_chunks:
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
        return read_asked(self._settings, api, stream, request.body)

    def _facts(self, request: Request, asked: Asked, fault: str | None) -> AnswerFacts:
        self._answered += 1
        prefix = "chatcmpl-" if asked.api is Api.CHAT else "cmpl-"
        return AnswerFacts(
            answer_id=prefix + (request.request_id or f"{self._answered:016x}"),
            created_s=int(time.time()),
            model=self._settings.model,
            fingerprint=f"{OWNER}-{self._version}",
            asked=asked,
            usage=fault != "no_usage",
            done=fault != "no_done",
        )

    def _refuse(self, request: Request, connection: Connection, refused: RefusedError, fault: str | None) -> None:
        more: tuple[Header, ...] = (("retry-after", "1"),) if refused.status == 429 else ()
        body, kind = (_HTML_ERROR, "text/html") if fault == "html_error" else (refused.body, "application/json")
        written_ns = time.monotonic_ns()
        connection.reply(request, refused.status, body, kind, more)
        told = {"status": refused.status, "prompt_tokens": None, "output_tokens": 0, "finish": "error", "fault": fault}
        stamps = {"admitted_ns": None, "first_write_ns": written_ns, "last_write_ns": written_ns}
        self._log.write({**request.truth(), **told, **stamps})

    def _models(self) -> Page:
        model = {"id": self._settings.model, "object": "model", "created": self._created_s, "owned_by": OWNER}
        more = {"root": self._settings.model, "parent": None, "max_model_len": self._settings.max_model_len_tokens}
        return _json({"object": "list", "data": [{**model, **more}]})

    def _info(self) -> Page:
        """TGI's way of saying what it is."""
        info = {"model_id": self._settings.model, "version": self._version, "engine": ENGINE_NAME}
        return _json({**info, "max_total_tokens": self._settings.max_model_len_tokens})


def _json(value: object) -> Page:
    return orjson.dumps(value), "application/json"
