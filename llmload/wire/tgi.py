"""TGI's own API, `/generate_stream` and `/generate`: one text in, one event a token out."""

from typing import Any, Final

import orjson

from llmload.measure.record import TokenSource
from llmload.wire.answer import Answer, TokenCounts, count_in
from llmload.wire.client import ClientSettings
from llmload.workload.conversation import Message, Prompt

_SPEAKER: Final = {"user": "User: ", "assistant": "Assistant: ", "system": ""}
_RENAMED: Final = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}


class TgiDialect:
    """
    Requests to `/generate_stream` (or `/generate`, where nothing is to be streamed).

    This API takes a text and applies no chat template, so the messages are rendered as `User: ...` and
    `Assistant: ...` lines that end on an open `Assistant:`. Fields of OpenAI's API are sent as TGI names them.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.path = "/generate_stream" if settings.stream else "/generate"
        self._parameters = generate_parameters(dict(settings.body))

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""
        return orjson.dumps({"inputs": render(prompt.messages), "parameters": self._parameters})

    def answer(self) -> "TgiAnswer":
        """Return the answer to a request, before anything of it came."""
        return TgiAnswer()


class TgiAnswer(Answer):
    """An answer in token events, the last of which holds `details`, or as one object with `generated_text`."""

    __slots__ = ("_details",)

    def __init__(self) -> None:
        super().__init__()
        self._details: dict[str, Any] = {}

    def counts(self) -> TokenCounts:
        """Return the tokens counted so far: the engine's details first, then the number of chunks."""
        output = count_in(self._details, "generated_tokens")
        if output is None:
            return self.counted_chunks()
        prompt = count_in(self._details, "input_length")
        prefill = self._details.get("prefill")
        if prompt is None and isinstance(prefill, list) and prefill:
            prompt = len(prefill)
        return TokenCounts(prompt=prompt, output=output, source=TokenSource.DETAILS)

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
    """Return chat messages as one text that ends where the assistant is to speak."""
    said = [_SPEAKER[message["role"]] + message["content"] for message in messages]
    return "\n\n".join([*said, "Assistant:"])


def generate_parameters(fields: dict[str, Any]) -> dict[str, Any]:
    """
    Return the fields of a chat request as TGI's `parameters`.

    Zero temperature becomes greedy decoding and a `top_p` of 1 is left out, for TGI refuses both values. A key
    it does not share with OpenAI's API goes in untouched.
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
