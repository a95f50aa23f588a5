"""A prompt as it is sent: chat messages, and where in the data set they come from."""

from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One chat message in the form of OpenAI's API."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's worth of chat: the messages that are sent, ending on a user's."""

    prompt_id: str
    """Row of the data set, and turn where a conversation has several: `17` or `17.2`."""
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row of the data set as the requests it becomes, to be sent one after the other."""

    row: int
    prompts: tuple[Prompt, ...]


def as_message(role: Role, content: str) -> Message:
    """Return one chat message."""
    return {"role": role, "content": content}
