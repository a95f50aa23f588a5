"""
The bytes of an answer as vLLM and as TGI send them.

What does not change from token to token is encoded once a request: a token then costs one concatenation. That is why
all words have the same length.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import orjson

from llmload.simulator.settings import (
    BYTES_PER_TOKEN,
    TOKENS_PER_MESSAGE,
    SimulationSettings,
    prompt_number,
    token_bytes,
    wanted_tokens,
)

# What a request body asks for, or why it is refused.

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


_LEXICON = (
    "able acid also area army away baby back ball band bank base bath bean bear beat bird blue boat body "
    "bone book born bowl calm card care cart city clay coat cold cook corn crew dark deep desk door dust "
    "east edge farm fish flag foam food gate gold hand hill iron lake lamp leaf moon nest path rain road "
    "seed snow wind wood"
)
WORDS = tuple(f" {noun}".encode() for noun in _LEXICON.split())
"""64 tokens, each a space and four letters."""

_MARK = b" @@@@"
BODY_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFacts:
    """What an answer says about itself; `usage` False leaves token counts out, `done` False the closing [DONE]."""

    answer_id: str
    created_s: int
    model: str
    fingerprint: str
    asked: Asked
    usage: bool
    done: bool

    @property
    def finish_reason(self) -> str:
        """vLLM's word for why the answer ends."""
        return "length" if self.asked.cut else "stop"


class Format(Protocol):
    """An answer in one API's words; everything for a stream is framed as HTTP chunks, one an event."""

    def opening(self) -> bytes:
        """What goes out with the first token, before it."""

    def token(self, k: int) -> bytes:
        """Token k, counted from 0."""

    def closing(self) -> bytes:
        """What goes out with the last token, after it, and the end of the body."""

    def error(self, message: str) -> bytes:
        """An error event, and the end of the body."""

    def whole(self) -> bytes:
        """The answer as one JSON body."""


def format_of(facts: AnswerFacts) -> Format:
    """The format that the request's API speaks."""
    return TgiFormat(facts) if facts.asked.api is Api.TGI else OpenAiFormat(facts)


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def word(number: int, k: int) -> bytes:
    """Token k of the answer that `number` fixes."""
    return WORDS[(number + k * (number >> 8 | 1)) & 63]


def text_of(number: int, tokens: int) -> str:
    """The first `tokens` tokens of the answer that `number` fixes, as one text."""
    return b"".join(word(number, k) for k in range(tokens)).decode()


def _event(value: object) -> bytes:
    return http_chunk(b"data: " + orjson.dumps(value) + b"\n\n")


class OpenAiFormat:
    """Chat completions and completions as vLLM sends them: each token a chunk, finish_reason and usage one each."""

    def __init__(self, facts: AnswerFacts) -> None:
        self._facts = facts
        self._chat = facts.asked.api is Api.CHAT
        self._number = facts.asked.number
        self._stride = self._number >> 8 | 1
        self._before, _, self._after = self._chunk(_MARK.decode(), None).rpartition(_MARK)

    def _frame(self, kind: str, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        facts = self._facts
        frame = {"id": facts.answer_id, "object": kind, "created": facts.created_s, "model": facts.model}
        return {**frame, "system_fingerprint": facts.fingerprint, "choices": choices, **more}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _chunk(self, text: str, finish_reason: str | None, **delta: str) -> bytes:
        said = {"delta": {**delta, "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        return _event(self._frame(self._chunk_kind, [choice]))

    def _usage(self) -> dict[str, Any]:
        asked = self._facts.asked
        total = asked.prompt_tokens + asked.output_tokens
        cached = {} if asked.cached_tokens is None else {"cached_tokens": asked.cached_tokens}
        return {
            "prompt_tokens": asked.prompt_tokens,
            "total_tokens": total,
            "completion_tokens": asked.output_tokens,
            **({"prompt_tokens_details": cached} if cached else {}),
        }

    def opening(self) -> bytes:
        """Chat: the chunk that only gives the role."""
        return self._chunk("", None, role="assistant") if self._chat else b""

    def token(self, k: int) -> bytes:
        """Token k in a chunk of its own."""
        return self._before + WORDS[(self._number + k * self._stride) & 63] + self._after

    def closing(self) -> bytes:
        """The chunk with finish_reason; the chunk with usage where it was asked for; [DONE]."""
        parts = [self._chunk("", self._facts.finish_reason)]
        if self._facts.usage and self._facts.asked.include_usage:
            parts.append(_event(self._frame(self._chunk_kind, [], usage=self._usage())))
        if self._facts.done:
            parts.append(http_chunk(b"data: [DONE]\n\n"))
        return b"".join([*parts, BODY_END])

    def error(self, message: str) -> bytes:
        """vLLM's error object, then [DONE]."""
        error = {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}
        return _event(error) + http_chunk(b"data: [DONE]\n\n") + BODY_END

    def whole(self) -> bytes:
        """The answer that is not streamed."""
        text = text_of(self._number, self._facts.asked.output_tokens)
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": self._facts.finish_reason}
        kind = "chat.completion" if self._chat else "text_completion"
        usage = {"usage": self._usage()} if self._facts.usage else {}
        return orjson.dumps(self._frame(kind, [choice], **usage))


class TgiFormat:
    """TGI's own format: `data:` without a space, details on the last token, no [DONE]."""

    def __init__(self, facts: AnswerFacts) -> None:
        self._facts = facts
        self._number = facts.asked.number

    @property
    def _finish_reason(self) -> str:
        return "length" if self._facts.asked.cut else "eos_token"

    def _details(self) -> dict[str, Any]:
        counted = {"generated_tokens": self._facts.asked.output_tokens} if self._facts.usage else {}
        return {"finish_reason": self._finish_reason, **counted, "seed": None}

    def _token(self, k: int) -> dict[str, Any]:
        said = word(self._number, k)
        return {"id": 1000 + WORDS.index(said), "text": said.decode(), "logprob": -0.5, "special": False}

    def opening(self) -> bytes:
        """Nothing: TGI's first event is its first token."""
        return b""

    def token(self, k: int) -> bytes:
        """Token k; the last one carries the whole text and the details."""
        last = k + 1 == self._facts.asked.output_tokens
        text = text_of(self._number, k + 1) if last else None
        details = self._details() if last else None
        event = {"index": k + 1, "token": self._token(k), "generated_text": text, "details": details}
        return http_chunk(b"data:" + orjson.dumps(event) + b"\n\n")

    def closing(self) -> bytes:
        """The end of the body."""
        return BODY_END

    def error(self, message: str) -> bytes:
        """TGI's error object."""
        event = {"error": f"Request failed during generation: {message}", "error_type": "generation"}
        return http_chunk(b"data:" + orjson.dumps(event) + b"\n\n") + BODY_END

    def whole(self) -> bytes:
        """The answer of /generate, with details where they were asked for."""
        answer: dict[str, Any] = {"generated_text": text_of(self._number, self._facts.asked.output_tokens)}
        if self._facts.asked.include_usage:
            answer["details"] = {**self._details(), "prefill": [], "tokens": []}
        return orjson.dumps(answer)
