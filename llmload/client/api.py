"""What an answer says: its state while it arrives, and the APIs that engines serve (OpenAI's chat, TGI's own)."""

from array import array
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import orjson

from llmload.client.errors import error_in_object, error_message, request_error
from llmload.client.settings import ClientSettings
from llmload.prompts.conversation import Message, Prompt
from llmload.record import NO_CHUNKS, ErrorType, RequestError, StampArray, TokenSource

# The state of an answer while it arrives, in the terms of a record, for every API.

QUOTED_CHARS: Final = 120


def count_in(part: Any, *keys: str) -> int | None:
    """Return the integer under the first of the keys that has one; None for anything else that an engine sends."""
    if isinstance(part, dict):
        for key in keys:
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


class TokenCounts(NamedTuple):
    """Tokens of one request as the engine counted them, under the names of `RequestRecord`; None is unknown."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    token_source: TokenSource = TokenSource.NONE


class StreamState:
    """
    An answer while it arrives: stamps of chunks with text, the finish_reason, an error that the engine reported.

    Events are taken in order. Taking them never raises: an event that cannot be decoded becomes `error`. The first
    error stays.
    """

    __slots__ = (
        "chunk_ns",
        "coalesced_ns",
        "error",
        "finish_reason",
        "finished",
        "non_streaming",
        "saw_done",
        "textless_ns",
    )

    def __init__(self) -> None:
        self.chunk_ns = array("q")
        self.textless_ns = array("q")
        self.finish_reason: str | None = None
        self.finished = False
        self.saw_done = False
        self.non_streaming = False
        self.coalesced_ns: list[int] = []
        """Stamps of text chunks that arrived in the same read as the previous one; `HttpRequest` clears the list."""
        self.error: RequestError | None = None

    def take_event(self, arrived_ns: int, event_type: bytes, data: bytes) -> str | None:
        """
        Take an event of a stream: the monotonic ns at which its last byte arrived, its type and its data.

        Return the text if the event carries nothing else; events like it can use the fast path.
        """
        if not data or data.isspace():
            return None
        if data.startswith(b"[DONE]"):
            self.saw_done = True
            return None
        return self._take_json(arrived_ns, event_type, data)

    def take_whole(self, body: bytes) -> None:
        """Take an answer that is one JSON object instead of a stream."""
        self.non_streaming = True
        self.finished = True
        self._take_json(0, b"", body)

    def take_object(self, arrived_ns: int, parsed: Any) -> None:
        """Take an event whose JSON is already parsed."""
        self._take_parsed(arrived_ns, b"", parsed, b"")

    def fail(self, error: RequestError) -> None:
        """Record the error, unless there already is one."""
        if self.error is None:
            self.error = error

    def record_fields(self) -> dict[str, Any]:
        """Return the answer's part of a `RequestRecord`."""
        return {
            "chunk_ns": self.stamps(),
            "chunk_tokens": self.chunk_tokens(),
            "textless_ns": self.textless_stamps(),
            "finish_reason": self.finish_reason,
            **self.counts()._asdict(),
        }

    def counts(self) -> TokenCounts:
        """Return the tokens counted so far, by the best source there is."""
        raise NotImplementedError

    def counted_chunks(self) -> TokenCounts:
        """Count each chunk with text as one token, if the engine gave no counts; unknown for an answer in one piece."""
        if self.non_streaming or not (self.chunk_ns or self.finished):
            return TokenCounts()
        return TokenCounts(output_tokens=len(self.chunk_ns), token_source=TokenSource.CHUNKS)

    def chunk_tokens(self) -> StampArray | None:
        """Return the tokens of each chunk in `chunk_ns`, or None if the engine did not count per chunk."""
        return None

    def stamps(self) -> StampArray:
        """Return the arrivals of chunks with text, in monotonic ns."""
        return _stamps(self.chunk_ns)

    def textless_stamps(self) -> StampArray:
        """Return the arrivals of chunks with choices but no text, in monotonic ns."""
        return _stamps(self.textless_ns)

    def _take_text(self, arrived_ns: int) -> None:
        """Note the arrival of a chunk with text."""
        chunk_ns = self.chunk_ns
        if chunk_ns and chunk_ns[-1] == arrived_ns:
            self.coalesced_ns.append(arrived_ns)
        chunk_ns.append(arrived_ns)

    def _take_json(self, arrived_ns: int, event_type: bytes, data: bytes) -> str | None:
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError:
            if event_type == b"error":
                self.fail(request_error(ErrorType.ENGINE_ERROR, data.decode("utf-8", "replace"), http_status=200))
            else:
                self.fail(_unreadable("not JSON", data))
            return None
        return self._take_parsed(arrived_ns, event_type, parsed, data)

    def _take_parsed(self, arrived_ns: int, event_type: bytes, parsed: Any, data: bytes) -> str | None:
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        if not isinstance(parsed, dict):
            self.fail(_unreadable("not a JSON object", data or repr(parsed).encode()))
        elif error := error_in_object(parsed):
            self.fail(error)
        elif event_type == b"error":
            self.fail(request_error(ErrorType.ENGINE_ERROR, error_message(parsed), http_status=200))
        else:
            try:
                if self.non_streaming:
                    self._take_whole(parsed)
                else:
                    return self._take_chunk(arrived_ns, parsed)
            except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
                self.fail(_unreadable("an object of unknown form", data or repr(parsed).encode()))
        return None

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        raise NotImplementedError

    def _take_whole(self, answer: dict[str, Any]) -> None:
        raise NotImplementedError


class ApiProtocol(Protocol):
    """An engine's API: the path of requests, how they are encoded, and how answers are decoded."""

    @property
    def path(self) -> str:
        """The path of requests, without the API's prefix."""

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""

    def new_answer(self) -> StreamState:
        """Return the answer to a request, before any of it has arrived."""


def _stamps(moments_ns: "array[int]") -> StampArray:
    return np.array(moments_ns, dtype=np.int64) if moments_ns else NO_CHUNKS


def _unreadable(what: str, data: bytes) -> RequestError:
    quoted = data[:QUOTED_CHARS].decode("utf-8", "replace")
    return request_error(ErrorType.NOT_JSON, f"{what}: {quoted}")


class ChatApi:
    """Requests to `/chat/completions`, with only the fields that the scenario sets."""

    path = "/chat/completions"

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings

    def fields(self, prompt: Prompt) -> dict[str, Any]:
        """Return the request's fields, including `model`, `messages` and `stream`."""
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

    def new_answer(self) -> "ChatStream":
        """Return the answer to a request, before any of it has arrived."""
        return ChatStream()


class ChatStream(StreamState):
    """An answer of `chat.completion.chunk` events, or one `chat.completion`."""

    __slots__ = ("_totals", "_usage", "_usage_is_last")

    def __init__(self) -> None:
        super().__init__()
        self._usage: dict[str, Any] = {}
        self._usage_is_last = False
        self._totals = array("q")

    def counts(self) -> TokenCounts:
        """Return the tokens so far: by the final usage, else by usage on chunks, else by the number of chunks."""
        usage = self._usage
        output = count_in(usage, "completion_tokens")
        if output is None:
            return self.counted_chunks()
        cached = count_in(usage.get("prompt_tokens_details"), "cached_tokens")
        reasoning = count_in(usage.get("completion_tokens_details"), "reasoning_tokens")
        return TokenCounts(
            prompt_tokens=count_in(usage, "prompt_tokens"),
            output_tokens=output,
            cached_tokens=count_in(usage, "prompt_cache_hit_tokens") if cached is None else cached,
            reasoning_tokens=count_in(usage, "reasoning_tokens") if reasoning is None else reasoning,
            token_source=TokenSource.USAGE if self._usage_is_last else TokenSource.CHUNK_USAGE,
        )

    def chunk_tokens(self) -> StampArray | None:
        """Return the tokens of each chunk in `chunk_ns`, or None if the engine did not count per chunk."""
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
    """Return the text that a choice adds: content, reasoning or arguments of a tool call; falsy if none."""
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


_SPEAKER: Final = {"user": "User: ", "assistant": "Assistant: ", "system": ""}
_RENAMED: Final = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}


class TgiApi:
    """
    Requests to `/generate_stream`, or to `/generate` without streaming.

    This API takes a text and applies no chat template, so the messages are rendered as `User: ...` and
    `Assistant: ...` lines that end with an open `Assistant:`. Fields of OpenAI's API are sent under TGI's names.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.path = "/generate_stream" if settings.stream else "/generate"
        self._parameters = generate_parameters(dict(settings.body))

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""
        return orjson.dumps({"inputs": render(prompt.messages), "parameters": self._parameters})

    def new_answer(self) -> "TgiStream":
        """Return the answer to a request, before any of it has arrived."""
        return TgiStream()


class TgiStream(StreamState):
    """An answer of token events, the last with `details`, or one object with `generated_text`."""

    __slots__ = ("_details",)

    def __init__(self) -> None:
        super().__init__()
        self._details: dict[str, Any] = {}

    def counts(self) -> TokenCounts:
        """Return the tokens so far: by the engine's details, else by the number of chunks."""
        output = count_in(self._details, "generated_tokens")
        if output is None:
            return self.counted_chunks()
        prompt = count_in(self._details, "input_length")
        prefill = self._details.get("prefill")
        if prompt is None and isinstance(prefill, list) and prefill:
            prompt = len(prefill)
        return TokenCounts(prompt_tokens=prompt, output_tokens=output, token_source=TokenSource.DETAILS)

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        token = chunk.get("token")
        if token and token.get("text") and not token.get("special"):
            self._take_text(arrived_ns)
        if chunk.get("generated_text") is not None or chunk.get("details"):
            self._take_details(chunk)
        return None

    def _take_whole(self, answer: dict[str, Any]) -> None:
        if "generated_text" not in answer:
            raise KeyError("generated_text")
        self._take_details(answer)

    def _take_details(self, answer: dict[str, Any]) -> None:
        self.finished = True
        details = answer.get("details")
        self._details = details if isinstance(details, dict) else {}
        reason = self._details.get("finish_reason")
        self.finish_reason = None if reason is None else str(reason)


def render(messages: tuple[Message, ...]) -> str:
    """Return chat messages as one text that ends where the assistant's turn begins."""
    said = [_SPEAKER[message["role"]] + message["content"] for message in messages]
    return "\n\n".join([*said, "Assistant:"])


def generate_parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """
    Return the fields of a chat request as TGI's `parameters`.

    A temperature of 0 becomes greedy decoding and a `top_p` of 1 is left out, because TGI refuses both values. Keys
    that OpenAI's API does not have are passed on unchanged.
    """
    parameters: dict[str, Any] = {"details": True}
    for key, value in fields.items():
        if key == "temperature" and value == 0:
            parameters["do_sample"] = False
        elif key == "stop":
            parameters["stop"] = [value] if isinstance(value, str) else list(value or ())
        elif value is not None and not (key == "top_p" and value == 1):
            parameters[_RENAMED.get(key, key)] = value
    return parameters
