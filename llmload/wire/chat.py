"""OpenAI's chat completions: requests as the scenario sets them, answers as engines really give them."""

from array import array
from typing import Any

import numpy as np
import orjson

from llmload.measure.record import ErrorType, StampArray, TokenSource
from llmload.wire.answer import Answer, TokenCounts, count_in
from llmload.wire.client import ClientSettings
from llmload.wire.failure import request_error
from llmload.workload.conversation import Prompt


class ChatDialect:
    """Requests to `/chat/completions`; only fields that the scenario sets are sent."""

    path = "/chat/completions"

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings

    def fields(self, prompt: Prompt) -> dict[str, Any]:
        """Return the request's fields, `model`, `messages` and `stream` among them."""
        settings = self._settings
        fields: dict[str, Any] = {
            **settings.body,
            "model": settings.model,
            "messages": list(prompt.messages),
            "stream": settings.stream,
        }
        include_usage = settings.stream if settings.include_usage is None else settings.include_usage
        if include_usage:
            fields["stream_options"] = {"include_usage": True, **settings.body.get("stream_options", {})}
        return fields

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""
        return orjson.dumps(self.fields(prompt), option=orjson.OPT_SERIALIZE_NUMPY)

    def answer(self) -> "ChatAnswer":
        """Return the answer to a request, before anything of it came."""
        return ChatAnswer()


class ChatAnswer(Answer):
    """An answer in chat chunks, or as one `chat.completion`."""

    __slots__ = ("_totals", "_usage", "_usage_is_last")

    def __init__(self) -> None:
        super().__init__()
        self._usage: dict[str, Any] = {}
        self._usage_is_last = False
        self._totals = array("q")

    def counts(self) -> TokenCounts:
        """Return the tokens counted so far: usage first, usage on chunks next, then the number of chunks."""
        usage = self._usage
        output = count_in(usage, "completion_tokens")
        if output is None:
            return self.counted_chunks()
        cached = count_in(usage.get("prompt_tokens_details"), "cached_tokens")
        reasoning = count_in(usage.get("completion_tokens_details"), "reasoning_tokens")
        return TokenCounts(
            prompt=count_in(usage, "prompt_tokens"),
            output=output,
            cached=count_in(usage, "prompt_cache_hit_tokens") if cached is None else cached,
            reasoning=count_in(usage, "reasoning_tokens") if reasoning is None else reasoning,
            source=TokenSource.USAGE if self._usage_is_last else TokenSource.CHUNK_USAGE,
        )

    def chunk_tokens(self) -> StampArray | None:
        """Return the tokens of each chunk in `chunk_ns`, or None where the engine did not count per chunk."""
        if not self._totals or len(self._totals) != len(self.chunk_ns):
            return None
        totals = np.array([0, *self._totals], dtype=np.int64)
        return totals[1:] - totals[:-1]

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        text: Any = None
        choices = chunk.get("choices") or ()
        for choice in choices:
            text = text or _text_of(choice)
            self._take_finish(choice.get("finish_reason"))
        usage = chunk.get("usage")
        if isinstance(usage, dict) and usage:
            self._usage = usage
            self._usage_is_last = self.finished
        if text:
            self._take_text(arrived_ns)
            total = count_in(usage, "completion_tokens")
            if total is not None:
                self._totals.append(total)
        elif choices:
            self.textless_ns.append(arrived_ns)
        return text if isinstance(text, str) and not usage and not self.finished else None

    def _take_whole(self, answer: dict[str, Any]) -> None:
        choices = answer["choices"]
        self._take_finish(choices[0].get("finish_reason"))
        usage = answer.get("usage")
        self._usage = usage if isinstance(usage, dict) else {}
        self._usage_is_last = True

    def _take_finish(self, reason: Any) -> None:
        if reason is None:
            return
        self.finished = True
        self.finish_reason = reason if isinstance(reason, str) else str(reason)
        if reason == "error":
            self.fail(request_error(ErrorType.ENGINE_ERROR, "finish_reason is error", http_status=200))


def _text_of(choice: dict[str, Any]) -> Any:
    """Return what a choice adds to the answer: content, reasoning or arguments of a tool call; falsy for nothing."""
    delta = choice.get("delta")
    if delta is None:
        return choice.get("text")
    text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    if text:
        return text
    for call in delta.get("tool_calls") or ():
        if arguments := (call.get("function") or {}).get("arguments"):
            return arguments
    return (delta.get("function_call") or {}).get("arguments")
