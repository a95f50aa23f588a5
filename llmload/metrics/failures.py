"""
Failed requests by type, status and the engine's own words; and what to do about each type.

Words that differ in numbers and ids alone are one failure: what differs is shown as `#` (a number) or `*` (an id), what
is the same stays. Where a type and status have more than `KEPT` different words, as when an engine quotes the prompt,
those that begin with the same words become one, by as many words as leave `KEPT` different beginnings. So memory is
bounded, counts are exact, and the result does not depend on the order of requests or processes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus
from itertools import accumulate, takewhile
from typing import Any, Final, NamedTuple, Self

from llmload.record import ErrorType

KEPT: Final = 16
"""Different words that are kept of one type and status."""
WORDS: Final = 32
CHARACTERS: Final = 200
"""Characters of a failure's words, a number or id counted as one."""
WORD_CHARACTERS: Final = 60
SENT: Final = (64, 16, 8, 8, 4, 4, 3, 3, 3)
"""How many failures a message has, the most frequent ones, per level of coarseness."""
_MORE: Final = "\u2026"

_ID: Final = re.compile(
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"  # UUID
    r"|(?<![0-9A-Za-z])(?=[A-Za-z]*[0-9][A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])(?:[0-9a-f]{6,}|[0-9A-F]{6,}|[0-9A-Za-z]{8,})"
    r"(?![0-9A-Za-z])"
)
_NUMBER: Final = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_STATUS: Final = re.compile(r"HTTP \d{3}(?:: |$)")


class Advice(NamedTuple):
    """What a type of failure means, and what to do about it."""

    meaning: str
    remedy: str


_AT_HAND: Final = "see the engine's log"
_SLOW: Final = "send less (--users or the rate), or give it longer: --set client.timeouts."
ADVICE: Final[Mapping[ErrorType, Advice]] = {
    ErrorType.DNS: Advice("the host's name has no address", "check its spelling in engine.base_url (--base-url)"),
    ErrorType.CONNECT_REFUSED: Advice(
        "nothing listens at the engine's address",
        "start the engine, or see in its log why it ended; if it listens elsewhere, give --base-url (Locust: --host)",
    ),
    ErrorType.CONNECT_TIMEOUT: Advice(
        "no connection was opened within `connect_s`",
        "see whether the engine still accepts connections and no firewall drops them; send less (--users or the rate)",
    ),
    ErrorType.CONNECT_FAILED: Advice(
        "the system or a proxy could not open a connection",
        "mend what it says: a route, a proxy's variable (http_proxy, no_proxy), or too few local ports "
        '(sysctl -w net.ipv4.ip_local_port_range="1024 65535")',
    ),
    ErrorType.NO_DESCRIPTOR: Advice(
        "llmload's process may not open more files or connections",
        "raise ulimit -n before the start, share the load with --processes, or send less (--users, load.max_in_flight)",
    ),
    ErrorType.TLS: Advice(
        "encryption failed, or the certificate is not trusted", "set engine.ca_file, or engine.verify_tls = false"
    ),
    ErrorType.FIRST_TOKEN_TIMEOUT: Advice("no text came within `first_token_s`", f"{_SLOW}first_token_s=300"),
    ErrorType.BETWEEN_TOKENS_TIMEOUT: Advice(
        "an answer stalled for `between_tokens_s`", f"{_AT_HAND}; {_SLOW}between_tokens_s=120"
    ),
    ErrorType.TOTAL_TIMEOUT: Advice("the answer did not end within `total_s`", f"{_SLOW}total_s=1200"),
    ErrorType.RESET: Advice(
        "the engine or a proxy dropped the connection", f"{_AT_HAND}: did it crash, restart or run out of memory?"
    ),
    ErrorType.INCOMPLETE: Advice(
        "the answer ended in its middle, without a finish reason",
        f"{_AT_HAND}, and the time limits of a proxy before it",
    ),
    ErrorType.ENGINE_ERROR: Advice("the engine reported an error inside its answer", _AT_HAND),
    ErrorType.ABORTED: Advice("the engine gave the answer up (finish_reason abort, cancelled, timeout)", _AT_HAND),
    ErrorType.RATE_LIMITED: Advice(
        "the engine or a gateway refuses load (HTTP 429)",
        "send less (--users or the rate), raise its limit, or wait as it asks: --set client.retries=3",
    ),
    ErrorType.HTTP_CLIENT_ERROR: Advice(
        "the engine refuses the request (HTTP 400 to 499)",
        "change what it names: --model, --set request.max_tokens=..., request.extra_body",
    ),
    ErrorType.HTTP_SERVER_ERROR: Advice("the engine failed (HTTP 500 to 599)", _AT_HAND),
    ErrorType.HTTP_UNEXPECTED: Advice(
        "a status that no chat API answers with, such as a redirect", "give the API's own address in engine.base_url"
    ),
    ErrorType.PROTOCOL: Advice(
        "what answers does not speak HTTP, or broke off in it", f"check scheme and port of engine.base_url; {_AT_HAND}"
    ),
    ErrorType.UNKNOWN_TEXT: Advice(
        "chunks came, but their text is in fields that llmload does not know",
        "check that engine.base_url is that of a chat API (docs/answers.md); its fields are in the message",
    ),
    ErrorType.TOO_LARGE: Advice(
        "an answer or event is larger than any answer can be (docs/answers.md)",
        "set a smaller request.max_tokens, ask for no logprobs, or stream the answer",
    ),
    ErrorType.NOT_JSON: Advice(
        "the answer is not the API's JSON", f"give the API's own address in engine.base_url; {_AT_HAND}"
    ),
    ErrorType.CONTENT_TYPE: Advice(
        "the answer is a page or compressed, not the API's",
        "give the API's own address, not a web page's, in engine.base_url",
    ),
    ErrorType.CLIENT: Advice("llmload itself failed", "report it with the traceback that the run logged"),
}
"""What each type of failure means and what to do about it."""
OF_STATUS: Final = {
    401: "set the variable that engine.api_key_env or engine.headers names to the engine's key",
    403: "set the variable that engine.api_key_env or engine.headers names to a key that may use this model",
    404: "check --model, and the path in engine.base_url",
    413: "send shorter prompts: --prompts, --set request.max_tokens=...",
    502: "the proxy got no answer: see whether the engine behind it runs",
    503: "the engine is overloaded or still loads: wait until it is ready, or send less (--users or the rate)",
    504: "the proxy waited too long for the engine: send less (--users or the rate), or raise the proxy's time limit",
}
"""What to do about some statuses, where that is more than their type says."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What failed requests have in common, and how many there are."""

    type: str
    http_status: int | None
    words: str
    """The engine's or system's words; empty where there were none."""
    count: int

    @property
    def name(self) -> str:
        """The type, with the status where there was one, as Locust's tables name it."""
        return self.type if self.http_status is None else f"{self.type} ({self.http_status})"

    @property
    def said(self) -> str:
        """The words, or that there were none."""
        if self.words:
            return self.words
        phrases = [each.phrase for each in HTTPStatus if each == self.http_status]
        return ", ".join([*phrases, "without words"])

    def __str__(self) -> str:
        return f'{self.name}, "{self.said}"'

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return OF_STATUS.get(self.http_status or 0) or ADVICE[ErrorType(self.type)].remedy


def without_varying(text: str) -> str:
    """Return the text with every id as `*` and every number as `#`; a second time changes nothing."""
    return _NUMBER.sub("#", _ID.sub("*", text))


@lru_cache(maxsize=1_024)
def _words_of(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a text's words, and the same without what varies, cut where they get too long to show."""
    shown = [word if len(word) <= WORD_CHARACTERS else word[: WORD_CHARACTERS - 1] + _MORE for word in text.split()]
    shapes = [without_varying(word) for word in shown]
    lengths = accumulate(len(shape) + 1 for shape in shapes)
    fitting = min(sum(length <= CHARACTERS for length in lengths), WORDS)
    if fitting < len(shown):
        shown, shapes = [*shown[: fitting - 1], _MORE], [*shapes[: fitting - 1], _MORE]
    return tuple(shown), tuple(shapes)


@dataclass(slots=True)
class _Found:
    """Failures that begin with the same words, and how they all go on."""

    shown: tuple[str, ...]
    shapes: tuple[str, ...]
    count: int
    more: bool = False
    """Whether some of them have further words, which differ."""

    @property
    def words(self) -> str:
        return " ".join(self.shown)

    def merge(self, other: "_Found") -> None:
        """Add others that begin with the same words."""
        pairs = zip(self.shapes, other.shapes, strict=False)
        shapes = tuple(mine for mine, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.count += other.count
        self.more |= other.more or len(self.shapes) > len(shapes) or len(other.shapes) > len(shapes)
        words = zip(self.shown, other.shown, shapes, strict=False)
        self.shown = tuple(mine if mine == its else shape for mine, its, shape in words)
        self.shapes = shapes


@dataclass(slots=True)
class _Kind:
    """The failures of one type and status, by their first words."""

    depth: int = WORDS
    """How many leading words tell them apart."""
    found: dict[tuple[str, ...], _Found] = field(default_factory=dict)

    def add(self, new: _Found) -> None:
        self._count(new)
        while len(self.found) > KEPT:
            self.cut(self.depth - 1)

    def cut(self, depth: int) -> None:
        """Tell failures apart by no more than that many words."""
        if depth < self.depth:
            self.depth, before, self.found = depth, self.found, {}
            for each in before.values():
                self._count(each)

    def _count(self, new: _Found) -> None:
        present = self.found.setdefault(new.shapes[: self.depth], new)
        if present is not new:
            present.merge(new)


class Failures(dict[tuple[str, int | None], _Kind]):
    """The failures of a process, or of several, by type and status."""

    def add(self, error_type: str, http_status: int | None, message: str) -> None:
        """Count a failed request, with the message of its `RequestError`."""
        words = _STATUS.sub("", message, count=1) if http_status is not None else message
        self._kind(error_type, http_status).add(_Found(*_words_of(words), 1))

    def merge(self, *others: Self) -> None:
        """Add the failures of the others."""
        for other in others:
            for kind, theirs in other.items():
                mine = self._kind(*kind)
                mine.cut(theirs.depth)
                for each in theirs.found.values():
                    mine.add(replace(each))

    def most_common(self, number: int | None = None) -> list[Failure]:
        """Return the most frequent failures, or all; equal counts by name and words."""
        found = [
            Failure(*kind, f"{each.words} {_MORE}" if each.more else each.words, each.count)
            for kind, of in self.items()
            for each in of.found.values()
        ]
        found.sort(key=lambda each: (-each.count, each.name, each.words))
        return found[:number]

    def to_message(self, coarseness: int) -> list[list[Any]]:
        """Return them as plain values, only the most frequent ones of a coarse message."""
        found = [(kind, each) for kind, of in self.items() for each in of.found.values()]
        found.sort(key=lambda item: (-item[1].count, str(item[0]), item[1].words))
        frequent = found[: SENT[coarseness]]
        return [
            [*kind, of.depth, [[each.words, each.count, each.more] for its, each in frequent if its == kind]]
            for kind, of in self.items()
        ]

    def update_from(self, message: Iterable[Sequence[Any]]) -> None:
        """Set what `to_message` described."""
        for error_type, http_status, depth, found in message:
            kind = self[error_type, http_status] = _Kind(depth)
            for text, count, more in found:
                kind.add(_Found(*_words_of(text), count, more))

    def _kind(self, error_type: str, http_status: int | None) -> _Kind:
        kind = self.get((error_type, http_status))
        if kind is None:
            kind = self[error_type, http_status] = _Kind()
        return kind
