"""The APIs that engines serve (OpenAI's chat, TGI's own): how a prompt is sent, and what the chunks of answers say."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import orjson

from llmload.client.answer import StreamState
from llmload.client.chunk_fields import text_in, unknown_fields
from llmload.client.errors import error_in_object
from llmload.client.settings import ClientSettings
from llmload.client.thinking import TaggedText
from llmload.client.timings import timings_in
from llmload.client.token_counts import TokenCounts, UsageLog, against_chunks, count_in
from llmload.client.words import Words
from llmload.prompts.conversation import Message, Prompt
from llmload.record import StampArray, TokenSource


class ApiProtocol(Protocol):
    """An engine's API: the path of requests, how they are encoded, and how answers are decoded."""

    @property
    def path(self) -> str:
        """The path of requests, without the API's prefix."""

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""

    def new_answer(self, words: Words | None = None) -> StreamState:
        """Return the answer to a request, before any of it has arrived; its words are kept only where asked."""


class ChatApi:
    """Requests to `/chat/completions`, with only the fields that the scenario sets."""

    path = "/chat/completions"

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings

    def fields(self, prompt: Prompt) -> dict[str, Any]:
        """Return the request's fields, including `model`, `messages` and `stream`."""
        settings = self._settings
        body = settings.body
        if prompt.fields:
            body = {name: value for name, value in {**body, **prompt.fields}.items() if value is not None}
        fields: dict[str, Any] = {
            **body,
            "model": settings.model,
            "messages": list(prompt.messages),
            "stream": settings.stream,
        }
        include_usage = settings.stream if settings.include_usage is None else settings.include_usage
        if include_usage:
            fields["stream_options"] = {"include_usage": True, **fields.get("stream_options", {})}
        return fields

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""
        return orjson.dumps(self.fields(prompt), option=orjson.OPT_SERIALIZE_NUMPY)

    def new_answer(self, words: Words | None = None) -> "ChatStream":
        """Return the answer to a request, before any of it has arrived; its words are kept only where asked."""
        choices = count_in(self._settings.body, "n") or 1
        tagged = TaggedText() if self._settings.reasoning_in_tags else None
        return ChatStream(choices, tagged) if words is None else WordyChatStream(choices, words, tagged)


_MAX_CHOICES: Final = 1024
_USUAL: Final = frozenset({"role", "content"})
"""The fields of the delta that begins nearly every answer, and of the one that ends it."""
_THOUGHT: Final = _USUAL | {"reasoning_content", "reasoning"}
"""The fields of a delta that has reasoning and nothing else."""


class ChatStream(StreamState):
    """An answer of `chat.completion.chunk` events, or one `chat.completion`; `choices` were requested."""

    __slots__ = ("_asked", "_by_message", "_ended", "_seen", "_thinks", "_totals", "_usage")

    def __init__(self, choices: int = 1, tagged: TaggedText | None = None) -> None:
        super().__init__(tagged)
        self._asked = choices
        self._thinks = False
        """Whether the text that `_text_of` found last is in a field of reasoning."""
        self._seen: set[Any] = set()
        self._ended: set[Any] = set()
        self._by_message = False
        """Whether text came as a whole `message`, where a delta is due."""
        self._usage = UsageLog()
        self._totals = array("q")

    def counts(self) -> TokenCounts:
        """Return the tokens so far: by the final usage, else by usage on chunks, else by the number of chunks."""
        counts = self._usage.counts(len(self.chunk_ns))
        return self.counted_chunks()._replace(prompt_tokens=self._usage.prompt_tokens) if counts is None else counts

    def counted_chunks(self) -> TokenCounts:
        """Count each chunk with text as one token; unknown for an answer in one piece."""
        if self._by_message and len(self.chunk_ns) == 1:
            return TokenCounts()
        return super().counted_chunks()

    def chunk_tokens(self) -> StampArray | None:
        """Return the tokens of each chunk in `chunk_ns`, or None if the engine did not count per chunk."""
        if not self._totals or len(self._totals) != len(self.chunk_ns) or self._totals[-1] < len(self._totals):
            return None
        totals = np.array([0, *self._totals], dtype=np.int64)
        tokens = totals[1:] - totals[:-1]
        return tokens if tokens.min() >= 0 else None

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        text: Any = None
        choices = chunk.get("choices") or ()
        for choice in choices:
            text = text or self._text_of(choice)
            if choice.get("finish_reason") is not None or choice.get("index", 0) not in self._seen or "error" in choice:
                self._take_state(choice)
        usage = chunk.get("usage")
        total = self._usage.take(usage, finished=self.finished) if usage and isinstance(usage, dict) else None
        if not text:
            self._take_textless(arrived_ns, chunk)
            return None
        if self._tagged is not None:  # first, since it may refuse the chunk
            self._tagged.take("" if self._thinks else str(text))
        self._take_text(arrived_ns, thinking=self._thinks)
        if total is not None:
            self._totals.append(total)
        if self._tagged is not None:
            return None
        plain = isinstance(text, str) and not (usage or self.finished or self.error)
        return text if plain else None

    def _take_textless(self, arrived_ns: int, chunk: dict[str, Any]) -> None:
        if "metrics" in chunk or "timings" in chunk:
            self.timings = timings_in(chunk) or self.timings
        choices = chunk.get("choices")
        if choices:
            self.textless_ns.append(arrived_ns)
            self.check_size()
            delta = choices[0].get("delta")
            if len(choices) == 1 and delta and delta.keys() <= _USUAL:
                return
        if not self.chunk_ns:
            self._note_unknown(unknown_fields(chunk))

    def _take_state(self, choice: dict[str, Any]) -> None:
        """Note that there is this choice, that it ends, or that it failed."""
        index = choice.get("index", 0)
        if index not in self._seen:
            self._see(index)
        reason = choice.get("finish_reason")
        if reason is not None and self._note_finish(reason):
            self._ended.add(index)
            self.finished = len(self._ended) >= max(len(self._seen), self._asked)
        if "error" in choice:
            self._take_error_of(choice)

    def _take_whole(self, answer: dict[str, Any]) -> None:
        self.timings = timings_in(answer)
        choices = answer["choices"]
        ended = [self._note_finish(choice.get("finish_reason")) for choice in choices]
        for choice in choices:
            self._take_error_of(choice)
        self._seen.update(range(len(choices)))
        self._ended.update(range(sum(ended)))
        self.finished = len(choices) >= self._asked and (all(ended) or not any(ended))
        if not choices:
            raise LookupError("no choices")
        usage = answer.get("usage")
        said = any(self._text_of(choice) for choice in choices)
        if isinstance(usage, dict) and (count_in(usage, "completion_tokens") or not said):
            self._usage.take(usage, finished=True)

    def _text_of(self, choice: dict[str, Any]) -> Any:
        """
        Return the text that a choice adds, falsy if none.

        A whole `message` behind the deltas of a stream repeats their text.
        """
        if delta := choice.get("delta"):
            text = delta.get("content")
            self._thinks = not text
            text = text or delta.get("reasoning_content") or delta.get("reasoning")
            if text and type(text) is str and (not self._thinks or delta.keys() <= _THOUGHT):
                return text
            if not text and delta.keys() <= _USUAL:
                return None
            text, self._thinks = text_in(delta)
            if not text:
                self._take_error_of(delta)
            return text
        if text := choice.get("text"):
            text, self._thinks = text_in({"text": text})
            return text
        if message := choice.get("message"):
            text, self._thinks = text_in(message)
            if text and self.chunk_ns and not self._by_message:
                return None
            self._by_message = self._by_message or bool(text)
            return text
        return None

    def _take_error_of(self, part: dict[str, Any]) -> None:
        """Fail by the error in a choice or a delta, if it has one."""
        if error := error_in_object({"error": part.get("error"), "choices": ()}):
            self.fail(error)

    def _see(self, index: Any) -> None:
        """Note a choice that was not there before; raises `ValueError` for too many."""
        self._seen.add(index)
        self.finished = False
        if len(self._seen) > _MAX_CHOICES:
            raise ValueError("too many choices")

    def _unfinished(self) -> str:
        choices = max(len(self._seen), self._asked)
        if choices == 1:
            return super()._unfinished()
        return f"the answer ended with a finish_reason for {len(self._ended)} of {choices} choices"


class WordyChatStream(ChatStream):
    """The same with its words kept."""

    __slots__ = ("_said",)
    keeps_words = True

    def __init__(self, choices: int, words: Words, tagged: TaggedText | None = None) -> None:
        super().__init__(choices, tagged)
        self._said = words
        words.clear()
        words.in_tags = tagged is not None

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        text = super()._take_chunk(arrived_ns, chunk)
        self._keep(chunk)
        return text if text and _is_plain_text(chunk["choices"]) else None

    def take_words(self, text: bytes) -> None:
        """Keep the text of chunks in a known frame: all of them are reasoning, or none."""
        (self._said.take_reasoning if self.thinking else self._said.take_text)(text.decode())

    def _take_whole(self, answer: dict[str, Any]) -> None:
        super()._take_whole(answer)
        self._keep(answer)

    def _keep(self, answer: dict[str, Any]) -> None:
        for choice in answer.get("choices") or ():
            if choice.get("index", 0) == 0:
                self._said.take_choice(choice)


def _is_plain_text(choices: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a chunk has a piece of the first choice's content or reasoning, and nothing else."""
    return len(choices) == 1 and choices[0].get("index", 0) == 0 and choices[0].get("delta", {}).keys() <= _THOUGHT


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
        self._body = dict(settings.body)
        self._in_tags = settings.reasoning_in_tags

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""
        parameters = generate_parameters({**self._body, **prompt.fields})
        return orjson.dumps({"inputs": render(prompt.messages), "parameters": parameters})

    def new_answer(self, words: Words | None = None) -> "TgiStream":
        """Return the answer to a request, before any of it has arrived; its words are kept only where asked."""
        tagged = TaggedText() if self._in_tags else None
        return TgiStream(tagged) if words is None else WordyTgiStream(words, tagged)


class TgiStream(StreamState):
    """An answer of token events, the last with `details`, or one object with `generated_text`."""

    __slots__ = ("_details", "_prefill")

    def __init__(self, tagged: TaggedText | None = None) -> None:
        super().__init__(tagged)
        self._prefill = 0
        self._details: dict[str, Any] = {}

    def counts(self) -> TokenCounts:
        """Return the tokens so far: by the engine's details, else by the number of chunks."""
        output = count_in(self._details, "generated_tokens")
        if output is None:
            return self.counted_chunks()
        prompt = count_in(self._details, "input_length") or self._prefill or None
        counts = TokenCounts(prompt_tokens=prompt, output_tokens=output, token_source=TokenSource.DETAILS)
        return against_chunks(counts, len(self.chunk_ns))

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        token = chunk.get("token")
        if token and token.get("text") and not token.get("special"):
            if self._tagged is not None:
                self._tagged.take(str(token["text"]))
            self._take_text(arrived_ns)
        if chunk.get("generated_text") is not None or chunk.get("details"):
            self._take_details(chunk)
        elif token is None and not self.chunk_ns:
            self._note_unknown([key[:40] for key in chunk])
        return None

    def _take_whole(self, answer: dict[str, Any]) -> None:
        if "generated_text" not in answer:
            raise KeyError("generated_text")
        self._take_details(answer)
        if answer["generated_text"] and not count_in(self._details, "generated_tokens"):
            self._details = {}

    def _take_details(self, answer: dict[str, Any]) -> None:
        self.finished = True
        details = answer.get("details")
        details = details if isinstance(details, dict) else {}
        self._note_finish(details.get("finish_reason"))
        prefill = details.get("prefill")
        self._prefill = len(prefill) if isinstance(prefill, list) else 0
        self._details = {key: details.get(key) for key in ("generated_tokens", "input_length")}


class WordyTgiStream(TgiStream):
    """The same with its words kept."""

    __slots__ = ("_said",)

    def __init__(self, words: Words, tagged: TaggedText | None = None) -> None:
        super().__init__(tagged)
        self._said = words
        words.clear()
        words.in_tags = tagged is not None

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        super()._take_chunk(arrived_ns, chunk)
        token = chunk.get("token")
        if token and not token.get("special"):
            self._said.take_text(token.get("text"))
        return None

    def _take_whole(self, answer: dict[str, Any]) -> None:
        super()._take_whole(answer)
        self._said.take_text(answer.get("generated_text"))


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
