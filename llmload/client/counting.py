"""How an engine counts the tokens of prompts, by itself: in answers of one token, or by a path that tokenises."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from http.client import HTTPException
from itertools import count as numbers
from typing import Any, Final

from llmload.access.address import root_of
from llmload.client.client import ChatClient, WireClient
from llmload.client.settings import ClientSettings
from llmload.errors import EngineError
from llmload.fetch import http_get, ssl_context
from llmload.prompts.conversation import Prompt, as_message
from llmload.prompts.workload import EXACT_OUTPUT
from llmload.record import ErrorType, RequestRecord

TIMEOUT_S: Final = 30.0
_MAX_BYTES: Final = 16 << 20
_TOKENISING: Final[Mapping[str, tuple[Callable[[str, str], dict[str, Any]], Callable[[Any], int]]]] = {
    "prompt": (
        lambda model, text: {"model": model, "prompt": text, "add_special_tokens": False},
        lambda answer: int(answer["count"]),
    ),
    "content": (
        lambda _, text: {"content": text, "add_special": False},
        lambda answer: len(answer["tokens"]),
    ),
    "inputs": (
        lambda _, text: {"inputs": text, "add_special_tokens": False},
        lambda answer: len(answer if isinstance(answer, list) else answer["tokens"]),
    ),
}
"""How `/tokenize` is asked, and answers: by vLLM and SGLang, by llama.cpp, by TGI."""
TOKENISE: Final = "/tokenize"
_SAMPLE: Final = "A measurement of what an engine counts: enough words that no other way of counting agrees by chance."
_FIRST_TRY_TOKENS: Final = 4


class PromptCounter:
    """
    Counts the tokens of requests as the engine does: by its `/tokenize` where that agrees, else by answers of a token.

    No text that is counted is one that a load sends. EngineError where the engine counts no prompt's tokens.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = replace(settings, stamps="user", retries=0, base_urls=settings.base_urls[:1])
        self._client: ChatClient = WireClient(self._settings)
        self._ids = numbers()
        self._besides = 0
        """Tokens of a request that are not those of its text, where the text's alone are counted."""
        self._way: str | None = None
        self.counted_by = "usage"
        """`usage`, or the path that tokenises."""

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def use_tokenize(self) -> None:
        """Count by the engine's `/tokenize` from now on, if it has one that agrees with what it says of requests."""
        short, long = f"{_SAMPLE[:20]}", f"{_SAMPLE} {_SAMPLE.lower()}"
        for way in _TOKENISING:
            found = [self._tokenised(way, text) for text in (short, long)]
            if None in found or not all(found):
                continue
            besides = {self.by_usage(text) - (tokens or 0) for text, tokens in zip((short, long), found, strict=True)}
            if len(besides) == 1:
                self._way, self._besides, self.counted_by = way, besides.pop(), TOKENISE
            return

    def count(self, text: str) -> int:
        """Return the tokens of a request whose only message, a user's, is this text."""
        if self._way is not None:
            found = self._tokenised(self._way, text)
            if found:
                return found + self._besides
        return self.by_usage(text)

    def by_usage(self, text: str) -> int:
        """Return the same by an answer of one token."""
        record = self._send(text, {"max_tokens": 1})
        if record.error is not None:
            raise EngineError(
                f"the lengths of prompts cannot be measured: the engine at {self._url} answers a request of "
                f"{len(text.split()):,} words: {record.error.message}"
            )
        if record.prompt_tokens is None:
            instead = "set engine.api = 'openai-chat', or " if self._settings.api != "openai-chat" else ""
            raise EngineError(
                f"the engine at {self._url} does not say how many tokens a prompt has (usage), so none can be made to "
                f"a length: {instead}remove prompts.input_tokens and shapes"
            )
        return record.prompt_tokens

    def output_fields(self, wanted: Iterable[str] = EXACT_OUTPUT) -> tuple[str, ...]:
        """Return which of the fields that keep an answer from ending early the engine takes, all together or alone."""
        names = tuple(wanted)
        for fields in (names, *((name,) for name in names)):
            if self._takes(fields):
                return fields
        return ()

    def _takes(self, fields: Sequence[str]) -> bool:
        values: dict[str, Any] = {"ignore_eos": True, "min_tokens": _FIRST_TRY_TOKENS}
        record = self._send(_SAMPLE, {"max_tokens": _FIRST_TRY_TOKENS, **{name: values[name] for name in fields}})
        error = record.error
        if error is not None and error.type is not ErrorType.HTTP_CLIENT_ERROR:
            raise EngineError(f"the engine at {self._url} does not answer before the load: {error.message}")
        return error is None

    @property
    def _url(self) -> str:
        return self._settings.base_urls[0]

    def _send(self, text: str, fields: dict[str, Any]) -> RequestRecord:
        none = dict.fromkeys(("max_completion_tokens", *EXACT_OUTPUT))
        prompt = Prompt("measurement", (as_message("user", text),), fields={**none, **fields})
        return self._client.complete(prompt, request_id=f"measurement-{next(self._ids)}")

    def _tokenised(self, way: str, text: str) -> int | None:
        """Return the tokens of a text by the engine's `/tokenize`, asked this way; None where it has none."""
        settings, (asked, answered) = self._settings, _TOKENISING[way]
        root, query = root_of(self._url)
        tls = ssl_context(settings.ca_file, verify=settings.verify_tls) if self._url.startswith("https:") else None
        headers = {**settings.access.all_headers(), "Content-Type": "application/json"}
        try:
            answer = http_get(
                f"{root}{TOKENISE}{query}",
                posted=json.dumps(asked(settings.model, text)).encode(),
                headers=headers,
                tls=tls,
                timeout_s=TIMEOUT_S,
                max_bytes=_MAX_BYTES,
            )
            return answered(json.loads(answer.body))
        except (OSError, ValueError, HTTPException, LookupError, TypeError, ArithmeticError, RecursionError):
            return None
