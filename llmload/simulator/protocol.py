"""
Request bodies parsed or refused, and the bytes of answers as vLLM and as TGI send them.

The part of a chunk that does not change is encoded once a request, so a token costs one concatenation. That is why all
words have the same length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import orjson

from llmload.simulator.settings import TOKENS_PER_MESSAGE, SimulationSettings, hash_prompt, wanted_tokens
from llmload.simulator.tokens import BYTES_PER_TOKEN, token_bytes

TGI_DEFAULT_MAX_NEW_TOKENS = 20  # TGI 1.0.1's default


class ApiStyle(Enum):
    """The API of a request; its value is the path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    TGI = "/generate"


class RefusedError(Exception):
    """The request is refused; carries the HTTP status and body of the answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """
    A request that can be answered; `prompt_hash` comes from prompt and seed and fixes the answer's words.

    `token_text` is the prompt as 4 bytes a token, `cached_tokens` how many of them are cached (None: no cache).
    `include_usage` is stream_options.include_usage, for TGI parameters.details; `truncated`: a limit ends the answer.
    """

    api: ApiStyle
    stream: bool
    include_usage: bool
    prompt_tokens: int
    output_tokens: int
    truncated: bool
    prompt_hash: int
    token_text: bytes = b""
    cached_tokens: int | None = None
    reasoning_tokens: int = 0
    reasoning_form: str = "field"
    reasoning_counted: bool = True


def error_body(api: ApiStyle, status: int, error_type: str, message: str, param: str | None = None) -> bytes:
    """Return the body of an error, in vLLM's form or TGI's."""
    if api is ApiStyle.TGI:
        return orjson.dumps({"error": message, "error_type": error_type})
    return orjson.dumps({"error": {"message": message, "type": error_type, "param": param, "code": status}})


def parse_request(settings: SimulationSettings, api: ApiStyle, stream: bool | None, raw: bytes) -> ParsedRequest:
    """Parse the body `raw`; `stream` is given if the path decides it. Raises `RefusedError`."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _refused(api, f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _refused(api, "the body is not a JSON object")
    if api is not ApiStyle.TGI:
        _check_model(settings, api, body)
    options = _mapping(api, body, "parameters") if api is ApiStyle.TGI else body
    prompt, token_text = _prompt(settings, api, body)
    prompt_tokens = len(token_text) // BYTES_PER_TOKEN
    prompt_hash = hash_prompt(settings, prompt)
    output_tokens, truncated = _answer_length(settings, api, options, prompt_tokens, prompt_hash)
    return ParsedRequest(
        api=api,
        stream=bool(body.get("stream")) if stream is None else stream,
        include_usage=bool(options.get("details") if api is ApiStyle.TGI else _include_usage(api, body)),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        truncated=truncated,
        prompt_hash=prompt_hash,
        token_text=token_text,
        reasoning_tokens=min(settings.reasoning_tokens, output_tokens) if api is ApiStyle.CHAT else 0,
        reasoning_form=settings.reasoning_form,
        reasoning_counted=settings.reasoning_counted,
    )


def tokenized(settings: SimulationSettings, raw: bytes) -> dict[str, Any]:
    """Return vLLM's answer to `/tokenize`, of a `prompt` or of `messages`; raises `RefusedError`."""
    try:
        body = orjson.loads(raw)
        api = ApiStyle.CHAT if "messages" in body else ApiStyle.COMPLETIONS
        _, token_text = _prompt(settings, api, body)
    except (orjson.JSONDecodeError, TypeError, AttributeError) as error:
        raise _refused(ApiStyle.COMPLETIONS, f"the body is not a JSON object: {error}") from None
    starts = range(0, len(token_text), BYTES_PER_TOKEN)
    tokens = [int.from_bytes(token_text[at : at + BYTES_PER_TOKEN], "little") for at in starts]
    return {"count": len(tokens), "max_model_len": settings.max_model_len_tokens, "tokens": tokens}


def _refused(api: ApiStyle, message: str, param: str | None = None) -> RefusedError:
    if api is ApiStyle.TGI:
        return RefusedError(422, error_body(api, 422, "validation", f"Input validation error: {message}"))
    return RefusedError(400, error_body(api, 400, "BadRequestError", message, param))


def _check_model(settings: SimulationSettings, api: ApiStyle, body: dict[str, Any]) -> None:
    model = body.get("model") or settings.model
    if model != settings.model:
        message = f"The model `{model}` does not exist."
        raise RefusedError(404, error_body(api, 404, "NotFoundError", message, "model"))
    if body.get("n") not in (None, 1):
        raise _refused(api, "the simulated engine gives one answer a request: n must be 1", "n")


def _mapping(api: ApiStyle, body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refused(api, f"{key} must be an object", key)
    return value


def _include_usage(api: ApiStyle, body: dict[str, Any]) -> bool:
    return bool(_mapping(api, body, "stream_options").get("include_usage"))


def _prompt(settings: SimulationSettings, api: ApiStyle, body: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the prompt as bytes to hash, and as 4 bytes a token."""
    key = {ApiStyle.CHAT: "messages", ApiStyle.COMPLETIONS: "prompt", ApiStyle.TGI: "inputs"}[api]
    prompt = body.get(key)
    if api is ApiStyle.CHAT:
        return _messages(settings, api, prompt)
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt.encode("utf-8", "surrogatepass"), token_bytes(prompt, settings.tokenizer)
    if (
        api is ApiStyle.COMPLETIONS
        and isinstance(prompt, list)
        and prompt
        and {type(token) for token in prompt} == {int}
    ):
        ids = b"".join((token & 0xFFFFFFFF).to_bytes(BYTES_PER_TOKEN, "little") for token in prompt)
        return orjson.dumps(prompt), ids
    raise _refused(
        api, f"{key} must be one text" + (" or one list of token ids" if api is ApiStyle.COMPLETIONS else ""), key
    )


def _messages(settings: SimulationSettings, api: ApiStyle, messages: object) -> tuple[bytes, bytes]:
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise _refused(api, "messages must be a list of at least one message", "messages")
    head_bytes = TOKENS_PER_MESSAGE * BYTES_PER_TOKEN
    token_text = b"".join(
        str(message.get("role")).encode("utf-8", "surrogatepass")[:head_bytes].ljust(head_bytes, b"\0")
        + token_bytes(_message_text(message.get("content")), settings.tokenizer)
        for message in messages
    )
    return orjson.dumps(messages), token_text


def _message_text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _answer_length(
    settings: SimulationSettings, api: ApiStyle, options: dict[str, Any], prompt_tokens: int, prompt_hash: int
) -> tuple[int, bool]:
    """Return the tokens of the answer, and whether a limit truncates it."""
    room_tokens = settings.max_model_len_tokens - prompt_tokens
    max_tokens = _limit(api, options)
    if room_tokens < (max_tokens or 1):
        message = f"the context of {settings.max_model_len_tokens} tokens cannot hold {prompt_tokens} prompt tokens"
        raise _refused(api, f"{message} and {max_tokens or 1} of an answer")
    limit_tokens = room_tokens if max_tokens is None else max_tokens
    least_tokens = _least(settings, api, options)
    if options.get("ignore_eos"):
        return limit_tokens, True
    wanted = max(least_tokens, wanted_tokens(settings, prompt_hash))
    return min(wanted, limit_tokens), wanted > limit_tokens


def _least(settings: SimulationSettings, api: ApiStyle, options: dict[str, Any]) -> int:
    """Return the fewest tokens that the answer may have."""
    if not settings.exact_output:
        for name in ("ignore_eos", "min_tokens"):
            if name in options:
                raise _refused(api, f"this engine has no {name}", name)
    least = options.get("min_tokens") or 0
    if type(least) is not int or least < 0:
        raise _refused(api, f"min_tokens must be a whole number of at least 0, not {least!r}", "min_tokens")
    return least


def _limit(api: ApiStyle, options: dict[str, Any]) -> int | None:
    names = ("max_new_tokens",) if api is ApiStyle.TGI else ("max_completion_tokens", "max_tokens")
    for name in names:
        value = options.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise _refused(api, f"{name} must be a whole number of at least 1, not {value!r}", name)
        return value
    return TGI_DEFAULT_MAX_NEW_TOKENS if api is ApiStyle.TGI else None


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
    """The facts in an answer; without `usage` it has no token counts, without `done` no final [DONE]."""

    answer_id: str
    created_s: int
    model: str
    fingerprint: str
    parsed: ParsedRequest
    usage: bool
    done: bool

    @property
    def finish_reason(self) -> str:
        """The finish_reason in vLLM's words."""
        return "length" if self.parsed.truncated else "stop"


class AnswerFormat(Protocol):
    """The bytes of an answer in one API; parts of a stream are framed as HTTP chunks, one an event."""

    def opening(self) -> bytes:
        """Return what is sent with the first token, before it."""

    def token(self, k: int) -> bytes:
        """Return token k, from 0."""

    def closing(self, metrics: Mapping[str, float] | None) -> bytes:
        """Return what is sent with the last token, after it, with the request's own metrics; and the body's end."""

    def error(self, message: str) -> bytes:
        """Return an error event, and the end of the body."""

    def complete(self) -> bytes:
        """Return the answer as one JSON body."""


def format_of(facts: AnswerFacts) -> AnswerFormat:
    """Return the format of the request's API."""
    return TgiFormat(facts) if facts.parsed.api is ApiStyle.TGI else OpenAiFormat(facts)


def http_chunk(data: bytes) -> bytes:
    """Return the data as one chunk of a chunked HTTP body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def word(prompt_hash: int, k: int) -> bytes:
    """Return token k of the answer to the prompt."""
    return WORDS[(prompt_hash + k * (prompt_hash >> 8 | 1)) & 63]


def text_of(prompt_hash: int, tokens: int) -> str:
    """Return the first `tokens` tokens of the answer to the prompt, as one text."""
    return b"".join(word(prompt_hash, k) for k in range(tokens)).decode()


def _event(value: object) -> bytes:
    return http_chunk(b"data: " + orjson.dumps(value) + b"\n\n")


class OpenAiFormat:
    """Chat completions and completions as vLLM sends them: a chunk for each token, for finish_reason and for usage."""

    def __init__(self, facts: AnswerFacts) -> None:
        self._facts = facts
        self._chat = facts.parsed.api is ApiStyle.CHAT
        self._hash = facts.parsed.prompt_hash
        self._stride = self._hash >> 8 | 1
        self._before, _, self._after = self._chunk(_MARK.decode(), None).rpartition(_MARK)
        self._thought = facts.parsed.reasoning_tokens

    def _frame(self, kind: str, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        facts = self._facts
        frame = {"id": facts.answer_id, "object": kind, "created": facts.created_s, "model": facts.model}
        return {**frame, "system_fingerprint": facts.fingerprint, "choices": choices, **more}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _chunk(self, text: str, finish_reason: str | None, **delta: str) -> bytes:
        content = {"delta": delta or {"content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return _event(self._frame(self._chunk_kind, [choice]))

    def _usage(self) -> dict[str, Any]:
        parsed = self._facts.parsed
        total = parsed.prompt_tokens + parsed.output_tokens
        cached = {} if parsed.cached_tokens is None else {"cached_tokens": parsed.cached_tokens}
        thought = {"reasoning_tokens": self._thought} if self._thought and parsed.reasoning_counted else {}
        return {
            **({"completion_tokens_details": thought} if thought else {}),
            "prompt_tokens": parsed.prompt_tokens,
            "total_tokens": total,
            "completion_tokens": parsed.output_tokens,
            **({"prompt_tokens_details": cached} if cached else {}),
        }

    def opening(self) -> bytes:
        """Return, for chat, the chunk with only the role."""
        return self._chunk("", None, role="assistant", content="") if self._chat else b""

    def token(self, k: int) -> bytes:
        """Return token k in one chunk; nothing for one of hidden reasoning."""
        if k < self._thought:
            return self._reasoning(k)
        return self._before + WORDS[(self._hash + k * self._stride) & 63] + self._after

    def _reasoning(self, k: int) -> bytes:
        text, form = word(self._hash, k).decode(), self._facts.parsed.reasoning_form
        if form == "tags":
            opened, closed = "<think>" if k == 0 else "", "</think>" if k + 1 == self._thought else ""
            return self._chunk(f"{opened}{text}{closed}", None)
        return self._chunk("", None, reasoning_content=text) if form == "field" else b""

    def _parts(self, text: str) -> dict[str, str]:
        """Return the fields of a message that says this."""
        thought_chars = self._thought * len(WORDS[0])
        thought, answer, form = text[:thought_chars], text[thought_chars:], self._facts.parsed.reasoning_form
        if form == "tags" and thought:
            return {"content": f"<think>{thought}</think>{answer}"}
        return {"content": answer, **({"reasoning_content": thought} if form == "field" and thought else {})}

    def closing(self, metrics: Mapping[str, float] | None) -> bytes:
        """Return the chunk with finish_reason, the chunk with usage if requested, and [DONE]."""
        parts = [self._chunk("", self._facts.finish_reason)]
        if self._facts.usage and self._facts.parsed.include_usage:
            own = {} if metrics is None else {"metrics": dict(metrics)}
            parts.append(_event(self._frame(self._chunk_kind, [], usage=self._usage(), **own)))
        if self._facts.done:
            parts.append(http_chunk(b"data: [DONE]\n\n"))
        return b"".join([*parts, BODY_END])

    def error(self, message: str) -> bytes:
        """Return vLLM's error object, then [DONE]."""
        error = {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}
        return _event(error) + http_chunk(b"data: [DONE]\n\n") + BODY_END

    def complete(self) -> bytes:
        """Return the answer without streaming."""
        text = text_of(self._hash, self._facts.parsed.output_tokens)
        message = {"role": "assistant", **self._parts(text)}
        content = {"message": message} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": self._facts.finish_reason}
        kind = "chat.completion" if self._chat else "text_completion"
        usage = {"usage": self._usage()} if self._facts.usage else {}
        return orjson.dumps(self._frame(kind, [choice], **usage))


class TgiFormat:
    """TGI's own format: `data:` without a space, details on the last token, no [DONE]."""

    def __init__(self, facts: AnswerFacts) -> None:
        self._facts = facts
        self._hash = facts.parsed.prompt_hash

    @property
    def _finish_reason(self) -> str:
        return "length" if self._facts.parsed.truncated else "eos_token"

    def _details(self) -> dict[str, Any]:
        counted = {"generated_tokens": self._facts.parsed.output_tokens} if self._facts.usage else {}
        return {"finish_reason": self._finish_reason, **counted, "seed": None}

    def _token(self, k: int) -> dict[str, Any]:
        content = word(self._hash, k)
        return {"id": 1000 + WORDS.index(content), "text": content.decode(), "logprob": -0.5, "special": False}

    def opening(self) -> bytes:
        """Return nothing: TGI's first event is its first token."""
        return b""

    def token(self, k: int) -> bytes:
        """Return token k; the last one has the whole text and the details."""
        last = k + 1 == self._facts.parsed.output_tokens
        text = text_of(self._hash, k + 1) if last else None
        details = self._details() if last else None
        event = {"index": k + 1, "token": self._token(k), "generated_text": text, "details": details}
        return http_chunk(b"data:" + orjson.dumps(event) + b"\n\n")

    def closing(self, metrics: Mapping[str, float] | None) -> bytes:  # noqa: ARG002 - TGI says nothing of them
        """Return the end of the body."""
        return BODY_END

    def error(self, message: str) -> bytes:
        """Return TGI's error object."""
        event = {"error": f"Request failed during generation: {message}", "error_type": "generation"}
        return http_chunk(b"data:" + orjson.dumps(event) + b"\n\n") + BODY_END

    def complete(self) -> bytes:
        """Return the answer of /generate, with details if requested."""
        answer: dict[str, Any] = {"generated_text": text_of(self._hash, self._facts.parsed.output_tokens)}
        if self._facts.parsed.include_usage:
            answer["details"] = {**self._details(), "prefill": [], "tokens": []}
        return orjson.dumps(answer)
