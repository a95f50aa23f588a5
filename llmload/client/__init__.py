"""A prompt in, a `RequestRecord` out; time stamps are taken at the socket."""

from typing import Literal

from llmload.client.client import ChatClient
from llmload.client.settings import ClientSettings

ClientKind = Literal["wire", "openai"]


def make_client(settings: ClientSettings, kind: ClientKind = "wire") -> ChatClient:
    """
    Return a client of the kind: `wire` stamps at the socket, `openai` is the SDK that applications use.

    Nothing is connected yet. Raises `ConfigError` for settings that the kind cannot follow.
    """
    if kind == "wire":
        from llmload.client.wire import WireClient

        return WireClient(settings)
    from llmload.client.sdk import SdkClient  # imports the SDK, which only those who choose it should wait for

    return SdkClient(settings)
