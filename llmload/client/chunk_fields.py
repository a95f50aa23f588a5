"""Where the chunks of an answer have their text, how a finish_reason is read, and which fields are not known."""

import re
from collections.abc import Mapping
from typing import Any, Final

from llmload.record import FINISH_REASONS

_DEPTH: Final = 8
"""How deep text may lie below a delta: engines nest parts in parts."""

_PART: Final[dict[str, Any]] = {}
for _name in ("text", "content", "thinking", "reasoning", "reasoning_content", "summary", "refusal", "transcript"):
    _PART[_name] = _PART
_FUNCTION: Final[dict[str, Any]] = dict.fromkeys(("arguments", "input", "name"))
_CALL: Final[dict[str, Any]] = {"function": _FUNCTION, "custom": _FUNCTION, **_FUNCTION}
_MESSAGE: Final[dict[str, Any]] = {
    "content": _PART,
    "reasoning_content": _PART,
    "reasoning": _PART,
    "reasoning_text": _PART,
    "reasoning_details": _PART,
    "thinking": _PART,
    "thinking_blocks": _PART,
    "text": _PART,
    "refusal": _PART,
    "tool_calls": _CALL,
    "function_call": _CALL,
    "audio": {"transcript": None, "data": None},
}
"""The fields of a delta or message that are output, and those of what lies in them; None: whatever is not empty."""


_REASONING: Final[frozenset[str]] = frozenset(
    (
        *("reasoning_content", "reasoning", "reasoning_text", "reasoning_details"),
        *("thinking", "thinking_blocks", "summary"),
    )
)
_ANSWER_PART: Final[dict[str, Any]] = {}
for _name in _PART.keys() - _REASONING:
    _ANSWER_PART[_name] = _ANSWER_PART
_ANSWER: Final = {
    name: _ANSWER_PART if inner is _PART else inner for name, inner in _MESSAGE.items() if name not in _REASONING
}
"""The fields of a delta or message that are the answer's."""


def text_in(delta: Any) -> tuple[Any, bool]:
    """
    Return the first text in a delta or message, usually a string, falsy if it has none; and whether it is reasoning.

    Text is content, reasoning, a refusal, an audio transcript, and the name or the arguments of a tool call; content
    may be a list of parts, and a part that is empty is none. All but reasoning is the answer, whose text counts first.
    """
    if text := _first_text(delta, _ANSWER, _DEPTH):
        return text, False
    return (text := _first_text(delta, _MESSAGE, _DEPTH)), bool(text)


_THOUGHT_TYPES: Final = ("thinking", "reasoning")
"""How the type of a part of a content begins that is not the answer's."""


def _first_text(part: Any, fields: dict[str, Any] | None, depth: int) -> Any:
    if not part or isinstance(part, str) or fields is None:
        return part
    if depth == 0:
        return None
    if isinstance(part, list):
        for each in part:
            if text := _first_text(each, fields, depth - 1):
                return text
    elif isinstance(part, dict) and not (fields is _ANSWER_PART and str(part.get("type")).startswith(_THOUGHT_TYPES)):
        for key, inner in fields.items():
            if (value := part.get(key)) and (text := _first_text(value, inner, depth - 1)):
                return text
    return None


NO_REASON: Final = frozenset({"", "null", "none", "nil", "undefined", "nan"})
"""Words that engines write where a value is missing."""

_FAILED: Final = {
    "abort": re.compile(r"abort|interrupt|disconnect|preempt|kill|evict|stopp?ed_by_(server|engine)"),
    "cancelled": re.compile(r"cancel"),
    "timeout": re.compile(r"time.?out|timed.?out|deadline"),
    "error": re.compile(r"error|fail|exception|overload|insufficient|unavailable|crash|dead|fatal|panic|\boom\b"),
}
"""Finish reasons of an answer that its engine gave up, by the word under which they are recorded."""


def finish_of(reason: Any) -> tuple[str | None, str]:
    """
    Return a finish_reason as one of `FINISH_REASONS`, None if it is none, and the engine's word for a failure or "".

    SGLang's own form is an object with a `type`, and a `message` where it failed.
    """
    if isinstance(reason, dict):
        name, failed = finish_of(reason.get("type"))
        message = reason.get("message")
        return name, f"{failed}: {message}" if failed and isinstance(message, str) and message else failed
    if not isinstance(reason, str):
        return ("other", "") if reason else (None, "")
    word = reason.strip().lower()
    if word in NO_REASON:
        return None, ""
    for name, pattern in _FAILED.items():
        if pattern.search(word):
            return name, reason
    return word if word in FINISH_REASONS else "other", ""


_CHUNK_FIELDS: Final = frozenset(
    (
        *("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"),
        *(
            "provider",
            "type",
            "event",
            "status",
            "timings",
            "metrics",
            "obfuscation",
            "prompt_filter_results",
            "x_groq",
        ),
        *("request_id", "index", "sequence_number", "nonce", "error", "code", "p", "time_info", "metadata"),
        *("citations",),
    )
)
_CHOICE_FIELDS: Final = frozenset(
    (
        *("index", "delta", "message", "text", "finish_reason", "stop_reason", "matched_stop"),
        *("native_finish_reason", "logprobs", "error", "id", "seed", "content_filter_results"),
        *("content_filter_offsets", "content_filter_result", "token_ids", "prompt_token_ids"),
        *("hidden_states", "routed_experts", "weight_version"),
    )
)
_DELTA_FIELDS: Final = (
    frozenset(
        (
            *("role", "id", "index", "type", "name", "error", "logprobs", "annotations", "citations"),
            *("token_ids", "provider_specific_fields", "extra_content", "status", "model", "phase", "stop"),
            *("images",),
        )
    )
    | _MESSAGE.keys()
)


def unknown_fields(chunk: Mapping[str, Any]) -> list[str]:
    """
    Return where a chunk without known text has strings in fields that llmload does not know, as `delta.answer`.

    A field is skipped if it is known to say something else, as `id` and `model` do.
    """
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return _strange(chunk, _CHUNK_FIELDS, "")
    found: list[str] = []
    for choice in choices[:4]:
        found += _strange(choice, _CHOICE_FIELDS, "choices[].")
        for place in ("delta", "message"):
            if inner := choice.get(place):
                found += _strange(inner, _DELTA_FIELDS, f"{place}.")
    return found


def _strange(part: Any, known: frozenset[str], place: str) -> list[str]:
    if not isinstance(part, dict):
        return []
    return [place + key[:40] for key, value in part.items() if key not in known and _has_words(value, _DEPTH)]


def _has_words(value: Any, depth: int) -> bool:
    """Return whether there is a string that is not empty in a value."""
    if isinstance(value, str):
        return bool(value)
    if depth and isinstance(value, dict):
        return any(_has_words(each, depth - 1) for each in value.values())
    return bool(depth) and isinstance(value, list) and any(_has_words(each, depth - 1) for each in value)
