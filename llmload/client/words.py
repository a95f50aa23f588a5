"""The words of an answer, for those who ask for them: the load itself counts tokens and never builds a text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmload.client.answer import too_large
from llmload.client.thinking import split_reasoning

MAX_CHARACTERS: Final = 4 << 20
"""The longest text that is kept of an answer; a longer answer fails."""
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool that an answer asks for; `arguments` is JSON as the model wrote it, valid or not."""

    id: str
    name: str
    arguments: str

    def result(self, content: str) -> dict[str, Any]:
        """Return the message that answers the call."""
        return {"role": "tool", "tool_call_id": self.id, "content": content}

    def to_message(self) -> dict[str, Any]:
        """Return the call as the assistant's message has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class Words:
    """What one answer says: content and refusals as text, reasoning, and calls of tools; of its first choice."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[object, dict[str, str]] = {}
        self._length = 0
        self.in_tags = False
        """Whether the text has reasoning between `<think>` and `</think>`, too."""

    @property
    def text(self) -> str:
        """What the model says."""
        said = "".join(self._text)
        return split_reasoning(said)[1] if self.in_tags else said

    @property
    def reasoning(self) -> str:
        """What it thinks, where the engine says that apart."""
        thought = "".join(self._reasoning)
        return thought + split_reasoning("".join(self._text))[0] if self.in_tags else thought

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that it asks for, in their order."""
        return tuple(ToolCall(**call) for call in self._calls.values())

    def clear(self) -> None:
        """Forget all: another attempt begins, or the whole message comes."""
        self._text.clear()
        self._reasoning.clear()
        self._calls.clear()
        self._length = 0

    def take_choice(self, choice: Mapping[str, Any]) -> None:
        """Take a choice of a chunk or of a whole answer; a whole message replaces what came before it."""
        if isinstance(delta := choice.get("delta"), dict):
            self._take_part(delta)
        elif isinstance(message := choice.get("message"), dict):
            self.clear()
            self._take_part(message)
        else:
            self.take_text(choice.get("text"))

    def take_text(self, text: object) -> None:
        """Take a piece of text; AttemptError where an answer is longer than any can be."""
        self._keep(self._text, text)

    def take_reasoning(self, text: object) -> None:
        """Take a piece of reasoning, likewise."""
        self._keep(self._reasoning, text)

    def _take_part(self, part: Mapping[str, Any]) -> None:
        self.take_text(part.get("content"))
        self.take_text(part.get("refusal"))
        self.take_reasoning(next((part[key] for key in _REASONING if part.get(key)), None))
        calls = part.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                self._take_call(call.get("index", position), call.get("id"), call.get("function"))
        if isinstance(part.get("function_call"), dict):  # as tools were called first
            self._take_call(0, None, part["function_call"])

    def _take_call(self, index: object, identity: object, function: object) -> None:
        call = self._calls.setdefault(str(index), {"id": "", "name": "", "arguments": ""})
        found = {"id": identity, **(function if isinstance(function, dict) else {})}
        for key in call:
            if isinstance(value := found.get(key), str):
                self._count(value)
                call[key] = call[key] + value if key == "arguments" else value or call[key]

    def _keep(self, pieces: list[str], text: object) -> None:
        if isinstance(text, list):  # parts of a content
            for part in text:
                self._keep(pieces, part.get("text") if isinstance(part, dict) else part)
        elif isinstance(text, str) and text:
            self._count(text)
            pieces.append(text)

    def _count(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_CHARACTERS:
            raise too_large(f"an answer of more than {MAX_CHARACTERS} characters")
