"""What a running engine reports about itself: its models, its version, and whether it is simulated."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit

from llmload.errors import EngineError
from llmload.http_get import AnswerTooLongError, http_get, ssl_context

TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 1_000_000
PATHS: Final = ("/v1/models", "/version", "/info", "/health")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """An engine's answers by path; a path that it does not serve is absent."""

    base_url: str
    answers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The names in `/v1/models`; empty if the engine lists none."""
        listed = self.answers.get("/v1/models")
        rows = listed.get("data") if isinstance(listed, dict) else None
        return tuple(str(row["id"]) for row in rows or () if isinstance(row, dict) and "id" in row)

    @property
    def version(self) -> str | None:
        """The engine's version, None if it reports none."""
        for path in ("/version", "/info"):
            answer = self.answers.get(path)
            if isinstance(answer, dict) and isinstance(answer.get("version"), str):
                return str(answer["version"])
        return None

    @property
    def loaded(self) -> str | None:
        """The model that TGI's `/info` reports as loaded; None if the engine does not serve it."""
        info = self.answers.get("/info")
        return str(info["model_id"]) if isinstance(info, dict) and info.get("model_id") else None

    @property
    def simulated(self) -> bool:
        """Whether llmload's simulated engine answered."""
        version = self.answers.get("/version")
        return isinstance(version, dict) and "simulated" in str(version.get("engine", ""))

    def to_dict(self) -> dict[str, Any]:
        """Return the answers as plain values for the manifest."""
        return {
            "base_url": self.base_url,
            "version": self.version,
            "models": list(self.models),
            "simulated": self.simulated,
            "answers": dict(self.answers),
        }


def ask_engine(
    base_url: str, *, api_key: str | None = None, ca_file: str | None = None, verify_tls: bool = True
) -> EngineInfo:
    """
    Return what the engine at the URL reports about itself; `EngineError` if nothing answers there.

    An engine that answers but serves none of the paths is not an error.
    """
    root, context, headers = _root(base_url), _context(base_url, ca_file, verify_tls), _headers(api_key)
    answers = {}
    for path in PATHS:
        answer = _get(root, path, headers, context)
        if answer is not None:
            answers[path] = answer
    return EngineInfo(base_url=base_url, answers=answers)


def is_ready(base_url: str, *, api_key: str | None = None, ca_file: str | None = None, verify_tls: bool = True) -> bool:
    """Return whether the engine is ready by `/health`, or by `/v1/models` if it has no `/health`."""
    root, context, headers = _root(base_url), _context(base_url, ca_file, verify_tls), _headers(api_key)
    health = _status(root + "/health", headers, context)
    if health in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}:
        return _status(root + "/v1/models", headers, context) == HTTPStatus.OK
    return health in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}


def _status(url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None) -> int | None:
    try:
        return http_get(url, headers=headers, tls=tls, timeout_s=TIMEOUT_S, max_bytes=_MAX_BYTES).status
    except HTTPError as error:
        return error.code
    except (OSError, ValueError, HTTPException):
        return None


def _root(base_url: str) -> str:
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _context(base_url: str, ca_file: str | None, verify_tls: bool) -> ssl.SSLContext | None:
    if not base_url.startswith("https:"):
        return None
    try:
        return ssl_context(ca_file, verify=verify_tls)
    except OSError as error:
        raise EngineError(f"engine.ca_file: {ca_file} cannot be used: {error.strerror or error}") from None


def _get(root: str, path: str, headers: Mapping[str, str], tls: ssl.SSLContext | None) -> object:
    try:
        answer = http_get(root + path, headers=headers, tls=tls, timeout_s=TIMEOUT_S, max_bytes=_MAX_BYTES)
    except AnswerTooLongError:
        return None
    except HTTPError as error:
        if error.code in {401, 403} and path == "/v1/models":
            raise EngineError(
                f"{root}{path} answers {error.code}: is the key in engine.api_key_env's variable the right one?"
            ) from None
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
        raise EngineError(
            f"the engine at {root} does not answer ({text}): start it, or give its address "
            "(llmload run --base-url, locust --host)"
        ) from None
    except HTTPException as error:
        raise EngineError(f"what listens at {root} does not speak HTTP ({type(error).__name__})") from None
    return _parsed(answer.body)


def _parsed(text: bytes) -> object:
    try:
        return json.loads(text) if text.strip() else {}
    except ValueError:
        return None
