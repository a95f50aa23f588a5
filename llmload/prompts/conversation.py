"""Chat messages: a row of a data set, the conversation made of it, and the prompt of one request."""

from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One chat message in the form of OpenAI's API."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of one request, the last one a user's, and where they come from."""

    prompt_id: str
    """Row of the data set from 0, and turn from 1 where a conversation has several: `17` or `17.2`."""
    messages: tuple[Message, ...]

    def salted(self, salt: str) -> "Prompt":
        """Return the prompt with the salt on its own line before the first message."""
        first = self.messages[0]
        return Prompt(self.prompt_id, (as_message(first["role"], f"{salt}\n{first['content']}"), *self.messages[1:]))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row of the data set as requests, to be sent one after the other."""

    row: int
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A row of the data set, answers included; after any system message, the first is a user's."""

    row: int
    messages: tuple[Message, ...]

    @property
    def question(self) -> str:
        """Return the first user message's text."""
        return next(message["content"] for message in self.messages if message["role"] == "user")

    @property
    def answer(self) -> str | None:
        """Return the text that answers the first user message; None where the data set has none."""
        first = next(index for index, message in enumerate(self.messages) if message["role"] == "user")
        after = self.messages[first + 1 : first + 2]
        return after[0]["content"] if after and after[0]["role"] == "assistant" else None


def as_message(role: Role, content: str) -> Message:
    """Return one chat message."""
    return {"role": role, "content": content}
