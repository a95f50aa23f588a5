"""What a request body asks for, or why it is refused."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from llmload.engines.simulated.formulas import (
    BYTES_PER_TOKEN,
    TOKENS_PER_MESSAGE,
    prompt_number,
    token_bytes,
    wanted_tokens,
)
from llmload.engines.simulated.settings import SimulationSettings

TGI_DEFAULT_MAX_NEW_TOKENS = 20  # TGI 1.0.1 answers 20 tokens where nothing else is asked for


class Api(Enum):
    """Whose words the answer is given in."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    TGI = "/generate"


class RefusedError(Exception):
    """The request is answered with an error; carries HTTP status and body."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    A request that can be answered; lengths in tokens, `number` is what prompt and seed fix.

    `token_text` is the prompt as 4 bytes a token, `cached_tokens` how many of them are cached (None: no cache).

    `include_usage` is stream_options.include_usage, for TGI parameters.details; `cut`: a limit ends the answer.
    """

    api: Api
    stream: bool
    include_usage: bool
    prompt_tokens: int
    output_tokens: int
    cut: bool
    number: int
    token_text: bytes = b""
    cached_tokens: int | None = None


def error_body(api: Api, status: int, kind: str, message: str, param: str | None = None) -> bytes:
    """An error as vLLM words it, or as TGI does."""
    if api is Api.TGI:
        return orjson.dumps({"error": message, "error_type": kind})
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": status}})


def read_asked(settings: SimulationSettings, api: Api, stream: bool | None, raw: bytes) -> Asked:
    """What the body `raw` asks for; `stream` is fixed where the path says it. Raises RefusedError."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _refused(api, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _refused(api, "the body is not a JSON object")
    if api is not Api.TGI:
        _check_model(settings, api, body)
    options = _mapping(api, body, "parameters") if api is Api.TGI else body
    prompt, token_text = _prompt(api, body)
    prompt_tokens = len(token_text) // BYTES_PER_TOKEN
    number = prompt_number(settings, prompt)
    output_tokens, cut = _answer_length(settings, api, options, prompt_tokens, number)
    return Asked(
        api=api,
        stream=bool(body.get("stream")) if stream is None else stream,
        include_usage=bool(options.get("details") if api is Api.TGI else _include_usage(api, body)),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        cut=cut,
        number=number,
        token_text=token_text,
    )


def _refused(api: Api, message: str, param: str | None = None) -> RefusedError:
    if api is Api.TGI:
        return RefusedError(422, error_body(api, 422, "validation", f"Input validation error: {message}"))
    return RefusedError(400, error_body(api, 400, "BadRequestError", message, param))


def _check_model(settings: SimulationSettings, api: Api, body: dict[str, Any]) -> None:
    model = body.get("model") or settings.model
    if model != settings.model:
        message = f"The model `{model}` does not exist."
        raise RefusedError(404, error_body(api, 404, "NotFoundError", message, "model"))
    if body.get("n") not in (None, 1):
        raise _refused(api, "the simulated engine gives one answer a request: n must be 1", "n")


def _mapping(api: Api, body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refused(api, f"{key} must be an object", key)
    return value


def _include_usage(api: Api, body: dict[str, Any]) -> bool:
    return bool(_mapping(api, body, "stream_options").get("include_usage"))


def _prompt(api: Api, body: dict[str, Any]) -> tuple[bytes, bytes]:
    """The prompt as bytes to draw from, and as 4 bytes a token."""
    key = {Api.CHAT: "messages", Api.COMPLETIONS: "prompt", Api.TGI: "inputs"}[api]
    asked = body.get(key)
    if api is Api.CHAT:
        return _messages(api, asked)
    if isinstance(asked, list) and len(asked) == 1 and isinstance(asked[0], str):
        asked = asked[0]
    if isinstance(asked, str):
        return asked.encode("utf-8", "surrogatepass"), token_bytes(asked)
    if api is Api.COMPLETIONS and isinstance(asked, list) and asked and all(type(token) is int for token in asked):
        ids = b"".join((token & 0xFFFFFFFF).to_bytes(BYTES_PER_TOKEN, "little") for token in asked)
        return orjson.dumps(asked), ids
    raise _refused(
        api, f"{key} must be one text" + (" or one list of token ids" if api is Api.COMPLETIONS else ""), key
    )


def _messages(api: Api, asked: object) -> tuple[bytes, bytes]:
    if not isinstance(asked, list) or not asked or not all(isinstance(message, dict) for message in asked):
        raise _refused(api, "messages must be a list of at least one message", "messages")
    head_bytes = TOKENS_PER_MESSAGE * BYTES_PER_TOKEN
    token_text = b"".join(
        str(message.get("role")).encode("utf-8", "surrogatepass")[:head_bytes].ljust(head_bytes, b"\0")
        + token_bytes(_message_text(message.get("content")))
        for message in asked
    )
    return orjson.dumps(asked), token_text


def _message_text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _answer_length(
    settings: SimulationSettings, api: Api, options: dict[str, Any], prompt_tokens: int, number: int
) -> tuple[int, bool]:
    """Tokens of the answer, and whether a limit cut it."""
    room_tokens = settings.max_model_len_tokens - prompt_tokens
    asked_tokens = _limit(api, options)
    if room_tokens < (asked_tokens or 1):
        message = f"the context of {settings.max_model_len_tokens} tokens cannot hold {prompt_tokens} prompt tokens"
        raise _refused(api, f"{message} and {asked_tokens or 1} of an answer")
    limit_tokens = room_tokens if asked_tokens is None else asked_tokens
    if options.get("ignore_eos"):
        return limit_tokens, True
    wanted = wanted_tokens(settings, number)
    return min(wanted, limit_tokens), wanted > limit_tokens


def _limit(api: Api, options: dict[str, Any]) -> int | None:
    names = ("max_new_tokens",) if api is Api.TGI else ("max_completion_tokens", "max_tokens")
    for name in names:
        value = options.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise _refused(api, f"{name} must be a whole number of at least 1, not {value!r}", name)
        return value
    return TGI_DEFAULT_MAX_NEW_TOKENS if api is Api.TGI else None
