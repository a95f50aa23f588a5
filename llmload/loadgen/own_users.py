"""Users whose behaviour is a locustfile's: `LlmUser`, its requests, and the answers that these get."""

from locust import User
from locust.env import Environment
from locust.exception import RescheduleTask

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, cast

import gevent
import orjson
from gevent import GreenletExit

from llmload.client.words import ToolCall, Words
from llmload.errors import ConfigError
from llmload.loadgen.locust_compat import rest
from llmload.loadgen.node import REQUEST_NAME, SendingNode, sending_node
from llmload.loadgen.session import ABSENT, ABSENT_PAUSE_S, Session, fire_request_event
from llmload.metrics.by_name import as_name
from llmload.prompts.conversation import Message, Prompt
from llmload.prompts.workload import with_fields
from llmload.record import Outcome, RequestError, RequestRecord
from llmload.scenario.load_protocol import Load

REST_S: Final = 3600.0
_SENT_BY_LLMLOAD: Final = frozenset({"model", "messages", "stream", "stream_options"})
_ID_BYTES: Final = 4
Ask = str | Prompt | Sequence[Mapping[str, Any]]
"""What a request may ask: a user's words, a prompt, or messages in the form of OpenAI's API."""


class MeasuredUser(User):
    """A user whose requests llmload sends and measures."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._node = sending_node(environment)
        self._is_stopped = False

    def stop(self, force: bool = False) -> bool:
        """
        Stop as Locust asks, but for a user that a smaller load does not need: it ends once its request is answered.

        Locust would cut the request, and it is one of the slow ones. It counts the user no longer.
        """
        self._is_stopped = True
        session = self._node.session
        if session is None or not session.let_go(self.greenlet):
            return bool(super().stop(force))
        self.group.discard(self.greenlet)
        return bool(super().stop(force=False))

    def rest_or_end(self) -> NoReturn:
        """Send nothing any more: rest until Locust ends the user, or end now where it has stopped the user."""
        while not self._is_stopped:
            rest(self, REST_S)
        raise GreenletExit


class Usage(NamedTuple):
    """The tokens of an answer; None is unknown."""

    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    reasoning_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a request: what the model says, and the record of how it said it; `ok` if it is complete."""

    record: RequestRecord
    """Its times, tokens and error, as in the run folder."""
    messages: tuple[Message, ...]
    """What was sent."""
    words: Words = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether a complete answer came."""
        return self.record.ok

    @property
    def text(self) -> str:
        """What the model says; of a request that failed, as much as came."""
        return self.words.text

    @property
    def reasoning(self) -> str:
        """What it thinks, where the engine says that apart."""
        return self.words.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools that it asks for; empty where the request failed, since they may be cut short."""
        return self.words.tool_calls if self.ok else ()

    @property
    def finish_reason(self) -> str | None:
        """How the engine says that it ended."""
        return self.record.finish_reason

    @property
    def error(self) -> RequestError | None:
        """Why the request failed; None where it did not."""
        return self.record.error

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        return Usage(*(getattr(self.record, name) for name in Usage._fields))

    def then(self, *further: str | Mapping[str, Any]) -> Prompt:
        """
        Return the conversation so far, with the model's own words, and what comes next: a user's words, or messages.

        Where the request failed there is nothing to carry on: the task ends here, and its user waits for the next one.
        """
        if not self.ok:
            raise RescheduleTask
        said: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            said["tool_calls"] = [call.to_message() for call in self.tool_calls]
        row, _, turn = self.record.prompt_id.partition(".")
        following = (_message(each) for each in further)
        return Prompt(f"{row}.{int(turn or 1) + 1}", (*self.messages, cast("Message", said), *following))


class RequestFailed(Exception):  # noqa: N818 - what a locustfile catches, as Locust's own are named
    """A request of `chat(..., catch=False)` that failed; `answer` has its record."""

    def __init__(self, answer: Answer) -> None:
        error = answer.error
        super().__init__("it was cut" if error is None else f"{error.type.value}: {error.message}")
        self.answer = answer


class Llm:
    """Sends a user's requests, each of which is one `request` event and is measured as any other."""

    def __init__(self, user: MeasuredUser, node: SendingNode) -> None:
        self._user, self._node = user, node
        self._count = partial(fire_request_event, node.environment, REQUEST_NAME)

    def chat(
        self,
        ask: Ask,
        *,
        name: str = REQUEST_NAME,
        max_tokens: int | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        catch: bool = True,
        **fields: Any,
    ) -> Answer:
        """
        Send a chat request and return its answer; `name` is its row in every table.

        `max_tokens`, `tools` and further fields of the request replace those of the scenario; a further field that is
        None is not sent. Where answers are to have a length, `max_tokens` is that of this one. An engine's failure is
        an answer that is not `ok`; with `catch=False` it raises `RequestFailed`. ValueError for what cannot be sent, or
        a field that llmload sends itself. When the run takes no more requests, the user rests until its end.
        """
        if twice := sorted(_SENT_BY_LLMLOAD & fields.keys()):
            raise ValueError(f"chat({twice[0]}=...): llmload sends this field itself, by the scenario")
        session = self._node.session
        if session is None:
            self._user.rest_or_end()
        given = {"max_tokens": max_tokens, "tools": tools}
        own = fields | {key: value for key, value in given.items() if value is not None}
        prompt = replace(with_fields(_prompt(ask, session), own), name=as_name(name))
        session.check(prompt)
        words = Words()
        record = session.send(prompt, self._count, words=words)
        if record is None:
            self._user.rest_or_end()
        if record.outcome is Outcome.CENSORED:
            raise GreenletExit  # the run, or the user, ends
        if record.error is not None and record.error.type in ABSENT:
            gevent.sleep(ABSENT_PAUSE_S)
        answer = Answer(record=record, messages=prompt.messages, words=words)
        if not catch and not answer.ok:
            raise RequestFailed(answer)
        return answer


def _prompt(ask: Ask, session: Session) -> Prompt:
    """Return what is asked as a prompt; a user's own words and messages get the scenario's salt, if it has one."""
    if isinstance(ask, Prompt):
        return ask
    messages = (_message(ask),) if isinstance(ask, str) else tuple(map(_message, ask))
    if not messages:
        raise ValueError("chat([]): at least one message is needed")
    try:
        digest = hashlib.blake2b(orjson.dumps(messages), digest_size=_ID_BYTES).hexdigest()
    except TypeError as error:
        raise ValueError(f"chat(): these messages are not JSON: {error}") from None
    prompt = Prompt(f"own-{digest}", messages)
    return session.salted(prompt) if isinstance(messages[0].get("content"), str) else prompt


def _message(message: str | Mapping[str, Any]) -> Message:
    if isinstance(message, str):
        return {"role": "user", "content": message}
    return cast("Message", dict(message))  # what else an engine takes in one: tools, parts of a content


class Prompts:
    """The scenario's prompts, each of which one user of the run gets."""

    def __init__(self, user: MeasuredUser, node: SendingNode) -> None:
        self._user, self._node = user, node

    def next(self) -> Prompt:
        """Return the next prompt; when there are no more, or the run ends, the user rests until its end."""
        session = self._node.session
        conversation = None if session is None else session.next_conversation()
        if session is None or conversation is None:
            self._user.rest_or_end()
        return session.salted(conversation.prompts[0], repeated=conversation.repeated)


class LlmUser(MeasuredUser):
    """
    A user whose tasks are its locustfile's: `self.llm.chat(...)` sends a request, `self.prompts.next()` gives a prompt.

    Weights, wait times, tags and everything else are Locust's. It may run beside other classes of users.
    """

    abstract = True
    has_own_tasks = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.llm = Llm(self, self._node)
        self.prompts = Prompts(self, self._node)


def check_load(environment: Environment, load: Load) -> None:
    """Raise ConfigError where users with their own tasks run under a load that sends by itself, or is a search."""
    own = [each.__name__ for each in environment.user_classes if getattr(each, "has_own_tasks", False)]
    if own and (load.is_open_loop or load.measures_steps):
        raise ConfigError(
            f"load.kind = {load.kind!r} sends the scenario's prompts, and {own[0]} is an LlmUser with its own: "
            "give a scenario with load.kind = 'closed_loop', or 'staged' with users"
        )
