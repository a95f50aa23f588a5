"""What every client does with a prompt: encode it, send it with retries, and return the record of what happened."""

import time
from abc import ABC, abstractmethod
from typing import final

from llmload.client.answer import ApiProtocol
from llmload.client.retry import RequestInfo, Send, send_with_retries
from llmload.client.settings import ClientSettings, secrets_in
from llmload.errors import ConfigError
from llmload.prompts.conversation import Prompt
from llmload.record import RequestRecord


class ChatClient(ABC):
    """
    Sends prompts and says what happened; one per process, used by all its users at once.

    May be made before a fork and used after it. Raises `ConfigError` when made from settings that cannot be used.
    """

    def __init__(self, settings: ClientSettings, api: ApiProtocol) -> None:
        if not settings.base_urls:
            raise ConfigError("base_urls: at least one URL is needed")
        self._settings = settings
        self._api = api
        self._secrets = secrets_in(settings)

    @final
    def complete(
        self,
        prompt: Prompt,
        *,
        request_id: str,
        stage: str | None = None,
        scheduled_ns: int | None = None,
        salt: str | None = None,
    ) -> RequestRecord:
        """
        Send the prompt, its messages salted if there is a salt, wait for the answer and return its record.

        Never raises for what an engine or network does: a failure is a record with an error. When its greenlet is
        killed while it waits, it closes the stream and returns a record with outcome `censored` instead of raising
        `GreenletExit`: the caller counts the record, then ends its greenlet.
        """
        send = self._sender(prompt, salt)
        request = RequestInfo(
            request_id=request_id,
            prompt_id=prompt.prompt_id,
            stage=stage,
            scheduled_ns=scheduled_ns,
            started_ns=time.monotonic_ns(),
        )
        return send_with_retries(
            request, self._api.new_answer, send, retries=self._settings.retries, secrets=self._secrets
        )

    @abstractmethod
    def _sender(self, prompt: Prompt, salt: str | None) -> Send:
        """Return what sends the prompt once; all that costs time before the request is done here."""

    @abstractmethod
    def prepare(self, prompt: Prompt, *, salted: bool = False) -> None:
        """Encode the prompt's request ahead of the run, with room for its salt, so that sending costs no work."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection of this process."""
