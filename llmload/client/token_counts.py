"""The tokens of an answer: usage objects as engines send them, compared with each other and with the chunks."""

from typing import Any, Final, NamedTuple

from llmload.record import TokenSource

MAX_COUNT: Final = 1 << 40
"""A larger count of tokens is none that an engine has made."""


def count_in(part: Any, *keys: str) -> int | None:
    """
    Return the count under the first of the keys that has one, None where none has.

    A count is a whole number from 0 to 2**40, written 12 or 12.0: true, -1, NaN and "12" are unknown.
    """
    if isinstance(part, dict):
        for key in keys:
            value = part.get(key)
            if type(value) is float and value.is_integer():
                value = int(value)
            if type(value) is int and 0 <= value <= MAX_COUNT:
                return value
    return None


class TokenCounts(NamedTuple):
    """Tokens of one request as the engine counted them, under the names of `RequestRecord`; None is unknown."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    token_source: TokenSource = TokenSource.NONE


def against_chunks(counts: TokenCounts, chunks: int) -> TokenCounts:
    """Return the counts, with the number of chunks with text in place of a smaller number of output tokens."""
    if counts.output_tokens is None or counts.output_tokens >= chunks:
        return counts
    return counts._replace(output_tokens=chunks, reasoning_tokens=None, token_source=TokenSource.CHUNKS_OVER_USAGE)


_NUMBERS: Final = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "reasoning_tokens",
    "prompt_cache_hit_tokens",
)
_DETAILS: Final = {"prompt_tokens_details": "cached_tokens", "completion_tokens_details": "reasoning_tokens"}


class UsageLog:
    """
    The usage objects of one answer: the last that counts output, the one that counts most, and the first.

    Some engines send a placeholder (zeros, nulls) before or after the one that counts, some count on every chunk.
    """

    __slots__ = ("_first", "_last", "_last_after_finish", "_most", "_most_output")

    def __init__(self) -> None:
        self._first: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None
        self._last_after_finish = False
        self._most: dict[str, Any] | None = None
        self._most_output = 0

    def take(self, usage: dict[str, Any], *, finished: bool) -> int | None:
        """Take a usage object that came with the finish or after it, or before; return its output tokens."""
        output: int | None = usage.get("completion_tokens")
        if type(output) is not int or not 0 < output <= MAX_COUNT:
            output = count_in(usage, "completion_tokens")
        if self._first is None:
            self._first = usage
        if output or (output is not None and self._most is None):
            self._last = usage
            self._last_after_finish = finished
            if output >= self._most_output:
                self._most = usage
                self._most_output = output
        return output

    @property
    def prompt_tokens(self) -> int | None:
        """The tokens of the prompt; at least one, else they are unknown."""
        return self._positive({}, "prompt_tokens")

    def counts(self, chunks: int) -> TokenCounts | None:
        """
        Return the tokens of an answer with this number of chunks with text; None if no usage object counts its output.

        A chunk with text is at least one token, so fewer tokens than chunks are disproved.
        """
        if self._last is None:
            return None
        counts = self._counts_of(self._last)
        if counts.output_tokens is not None and counts.output_tokens < chunks:
            if self._most is not None and self._most_output >= chunks:
                return self._counts_of(self._most)
            total, prompt = count_in(self._last, "total_tokens"), counts.prompt_tokens
            if total is not None and prompt is not None and total - prompt >= chunks:
                return counts._replace(output_tokens=total - prompt, token_source=TokenSource.USAGE_TOTAL)
        return against_chunks(counts, chunks)

    def _counts_of(self, usage: dict[str, Any]) -> TokenCounts:
        known = TokenCounts(
            prompt_tokens=self._positive(usage, "prompt_tokens"),
            output_tokens=count_in(usage, "completion_tokens"),
            cached_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens", "prompt_cache_hit_tokens"),
            reasoning_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens", "reasoning_tokens"),
            token_source=TokenSource.USAGE if self._last_after_finish else TokenSource.CHUNK_USAGE,
        )
        return _compared_with_total(known, count_in(usage, "total_tokens"))

    def _positive(self, usage: dict[str, Any], key: str) -> int | None:
        """Return a count of at least 1: of this usage object, else of another, where this one has a placeholder."""
        return count_in(usage, key) or count_in(self._last, key) or count_in(self._first, key) or None


def _detail(usage: dict[str, Any], details: str, key: str, own_key: str) -> int | None:
    """Return a count of the details (OpenAI's place), else of the usage object itself."""
    count = count_in(usage.get(details), key)
    return count_in(usage, own_key) if count is None else count


def _compared_with_total(counts: TokenCounts, total: int | None) -> TokenCounts:
    """
    Return the counts as `total_tokens` says that they are meant.

    Some engines count reasoning beside completion_tokens, or cached tokens beside prompt_tokens: the sum shows it. More
    reasoning than output cannot be a part of it.
    """
    prompt, output, cached, reasoning, _ = counts
    if output is None:
        return counts
    if reasoning and reasoning > output and (not total or prompt is None):
        return _with_reasoning(counts, output + reasoning)
    if not total or prompt is None or total == prompt + output:
        return counts
    if reasoning and total == prompt + output + reasoning:
        return _with_reasoning(counts, output + reasoning)
    if cached and total == prompt + output + cached:
        return counts._replace(prompt_tokens=prompt + cached)
    if cached and reasoning and total == prompt + output + cached + reasoning:
        return _with_reasoning(counts._replace(prompt_tokens=prompt + cached), output + reasoning)
    return counts._replace(token_source=TokenSource.USAGE_DISPUTED)


def _with_reasoning(counts: TokenCounts, output: int) -> TokenCounts:
    return counts._replace(output_tokens=output, token_source=TokenSource.USAGE_PLUS_REASONING)


def only_counts(chunk: Any) -> Any:
    """Return a chunk whose usage has nothing but what is counted: it is kept, and may be as large as an event."""
    usage = chunk.get("usage") if isinstance(chunk, dict) else None
    if not isinstance(usage, dict):
        return chunk
    numbers: dict[str, Any] = {key: count_in(usage, key) for key in _NUMBERS}
    for key, inner in _DETAILS.items():
        numbers[key] = {inner: count_in(usage.get(key), inner)}
    return {**chunk, "usage": numbers}
