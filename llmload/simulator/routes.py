"""The answer to each path."""

import dataclasses
import time
from collections.abc import Callable

import orjson

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
)
from llmload.simulator.settings import FAULT_STATUS, FAULTS, FaultPicker, SimulationSettings

ENGINE_NAME = "llmload simulated engine"
OWNER = "llmload-simulated"
FAULT_HEADER = "x-simulate-fault"

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
        self._registry = registry_of(EngineCollector(settings.model, self._totals, batch.gauges))
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
        if self._unauthorized(request):
            connection.reply(request, 401, b'{"error":"Unauthorized"}')
        elif generating and request.method == "POST":
            self._generate(request, connection)
        elif request.path in self._pages and request.method == "GET":
            connection.reply(request, 200, *self._pages[request.path]())
        elif generating or request.path in self._pages:
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
            self._totals.e2e.add(generation.last_write_ns - generation.request.received_ns)
        if self._generating.get(generation.connection) is generation:
            del self._generating[generation.connection]
        self._log.write(generation.truth_line())

    def _unauthorized(self, request: ReceivedRequest) -> bool:
        """Return whether the request lacks the key; as in vLLM, health and metrics need none."""
        guarded = request.path.startswith("/v1/") or request.path in _GENERATING
        key = self._settings.api_key
        return guarded and key is not None and request.headers.get("authorization") != f"Bearer {key}"

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
