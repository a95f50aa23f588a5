"""
The bytes of an answer as vLLM and as TGI send them.

What does not change from token to token is encoded once a request: a token then costs one concatenation. That is why
all words have the same length.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from llmload.engines.simulated.asked import Api, Asked

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
