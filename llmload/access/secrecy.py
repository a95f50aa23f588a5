"""What is a secret: names of keys and passwords, values that must not be shown, what an engine asks of its callers."""

import itertools
import re
import shlex
import unicodedata
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

_SECRET: Final = re.compile(
    r"(?:^|[-_.]|api|auth|access|pg)"
    r"(token|secrets?|passwords?|passwd|passphrase|passcode|pass|pwd|pw|key|(?:api|access|secret|private)[-_]?keys"
    r"|access[-_]?key[-_]?id|credentials?|bearer|auth|authorization|cookies?|pat|jwt)[-_]?\d*$",
    re.IGNORECASE,
)
_NO_SECRET: Final = re.compile(
    r"(?:^|[-_])(?:pad|eos|bos|unk|stop|end|image|mask)[-_]token$|(?:^|[-_.])salt[-_]key$", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Return whether an option or a variable of that name holds a password or key, however it is spelled."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return _SECRET.search(words) is not None and _NO_SECRET.search(words) is None


# A word is looked at once, from its begin, and a token has a length: long words would take minutes.
_WITH_VALUE: Final = re.compile(r"(?<![\w.-])([\w.-]++)[\"']?\s*[=:](?=\s*[^\s=])")
_NO_LETTERS: Final = re.compile(r"^[^A-Za-z]+")
_OPTION: Final = re.compile(r"(?:^|(?<=[\s'\"]))--?([A-Za-z][\w.-]*)(?=[=\s]|$)")
_SECRETS_IN_TEXT: Final = re.compile(
    r"\b(?:bearer|basic)\s+\S|\bauthorization\s*[:=]|://[^/\s@?#]+@"  # headers, the user in a URL
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{8,2000}\.eyJ[\w-]{4,}"  # PEM, JSON Web Token
    r"|\b(?:sk-|sk_|hf_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|nvapi-|gsk_|AIza|AKIA|ASIA)[\w-]{12,}",  # as issued
    re.IGNORECASE,
)


def holds_secret(word: str) -> bool:
    """Return whether a word of a command holds a password or key, or is the option before one."""
    named = [*(_NO_LETTERS.sub("", name) for name in _WITH_VALUE.findall(word)), *_OPTION.findall(word)]
    return any(map(is_secret, named)) or _SECRETS_IN_TEXT.search(word) is not None


def masked(words: Sequence[str]) -> list[str]:
    """Return a command's words with `***` for each password or key; a variable (`$NAME`) is not one."""
    shown: list[str] = []
    before = ""
    for word in words:
        is_value = _OPTION.fullmatch(before) is not None and holds_secret(before)
        shown.append(_masked_word(word, is_value=is_value))
        before = "" if is_value else word
    return shown


def _masked_word(word: str, *, is_value: bool) -> str:
    name, equals, value = word.partition("=")
    if is_value:
        return word if word.startswith("$") else "***"
    if not holds_secret(word) or value.startswith("$") or _OPTION.fullmatch(word):
        return word
    return f"{name}=***" if equals and not holds_secret(name.lstrip("-")) else "***"


def masked_command(command: str) -> str:
    """Return a line for a shell with `***` for each password or key in it."""
    try:
        words = shlex.split(command)
    except ValueError:  # quotes without an end
        return "***" if holds_secret(command) else command
    shown = masked(words)
    return command if shown == words else shlex.join(shown)


_SHORTEST_VARIABLE: Final = 8
_NO_VARIABLE: Final = "PWD"
"""The working directory, in every shell."""


def secret_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hold passwords or keys, by their names, and are long enough to be looked for."""
    return {
        name: value
        for name, value in environment.items()
        if is_secret(name) and name != _NO_VARIABLE and len(value) >= _SHORTEST_VARIABLE
    }


class UnshownValueError(ValueError):
    """A value that cannot be used and may be a secret: its report has the message alone."""


def mistake_in_value(value: str) -> str | None:
    """Return why an HTTP header cannot carry the value, without showing it; None if one can."""
    if not value:
        return "is empty"
    if value != value.strip():
        return "begins or ends with white space or a line break: remove it"
    for position, char in enumerate(value, 1):
        if not " " <= char <= "~":
            return f"has {described(char)} as character {position}, which an HTTP header cannot carry: copy it again"
    return None


def described(char: str) -> str:
    """Return a character's number in Unicode and its name, such as `U+2013 (en dash)`."""
    name = unicodedata.name(char, "").lower()
    return f"U+{ord(char):04X} ({name})" if name else f"U+{ord(char):04X}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What an engine asks of those who send to it: a key, and headers of which some are secrets."""

    api_key: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer`."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers as the scenario has them; those of a telling name count as secrets."""
    secret_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers with values from the environment."""

    def given_headers(self) -> dict[str, str]:
        """Return the headers of the scenario, without the key's."""
        return {**self.headers, **self.secret_headers}

    def all_headers(self) -> dict[str, str]:
        """Return the headers with the key's, where none of them takes its place."""
        given = self.given_headers()
        if not self.api_key or any(name.lower() == "authorization" for name in given):
            return given
        return {"Authorization": f"Bearer {self.api_key}", **given}

    def secrets(self) -> tuple[str, ...]:
        """Return every value that must not show in a message, encoded too, the longest first."""
        values = [self.api_key or ""]
        for name, value in self.headers.items():
            if any(word in name.lower() for word in _SECRET_WORDS):
                values += _parts(value)
        for value in self.secret_headers.values():
            values += _parts(value)
        plain = {value for value in values if len(value) >= SHORTEST_SECRET}
        return tuple(sorted(plain.union(*map(_encodings, plain)), key=len, reverse=True))

    def hider(self) -> Callable[[str], str]:
        """Return what hides the secrets in a text, as `hidden` does."""
        secrets = self.secrets()
        return lambda text: hidden(text, secrets)


NOBODY: Final = Access()
"""What an engine without a key asks for."""
_SECRET_WORDS: Final = ("auth", "key", "token", "secret", "cookie", "password")
SHORTEST_SECRET: Final = 4
"""What is shorter is not looked for in messages, where it would be a part of other words."""
_SCHEME: Final = re.compile(r"([A-Za-z][\w-]*) +(\S.*)")
"""A scheme of authentication and what follows it."""


def _parts(value: str) -> list[str]:
    """Return a header's value, what follows its scheme, and the user's password in a Basic one."""
    scheme = _SCHEME.fullmatch(value)
    if scheme is None:
        return [value]
    found = [value, scheme[2]]
    if scheme[1].lower() == "basic":
        try:
            login = b64decode(scheme[2], validate=True).decode()
        except (Base64Error, UnicodeDecodeError):
            return found
        found += [login, login.partition(":")[2]]
    return found


def _encodings(secret: str) -> set[str]:
    """Return a secret as URLs, hexadecimal and base64 have it, in base64 at each place in a longer text."""
    raw = secret.encode("utf-8", "replace")
    found = {quote(raw, safe=""), raw.hex(), raw.hex().upper()}
    for before, first in ((0, 0), (1, 2), (2, 3)):  # characters that hold bits of what is before it are left out
        text = b64encode(b"\0" * before + raw).decode()[first : (before + len(raw)) * 8 // 6]
        found |= {text, text.translate({ord("+"): "-", ord("/"): "_"})}
    return {text for text in found if len(text) >= SHORTEST_SECRET}


MOST_CHARS: Final = 4_000
"""As much of a text that is looked through for secrets is kept."""
_LONG_PART: Final = 8
"""A part of a secret from this length on is hidden; engines themselves show about as much of a wrong key."""
_LONG_AT_END: Final = 6
"""The same at the end of a message, which may have been cut within a secret; shorter ones are words such as `token`."""
_HEAD: Final = 4
_MASK: Final = re.compile(r"[*\u2022\u2026]+|\.{3,}")


def hidden(text: str, secrets: Iterable[str]) -> str:
    """
    Return the first 4,000 characters of a text with every secret in it replaced: engines quote keys.

    So is what begins as a secret does for 8 characters or more, 6 at the text's end, and what an engine masked itself
    (`sk-ab***cd`).
    """
    text = text[:MOST_CHARS]
    for secret in secrets:
        text = _without(text, secret)
    return text


def _without(text: str, secret: str) -> str:
    kept: list[str] = []
    head, done = secret[:_HEAD], 0
    begin = text.find(head)
    while begin >= 0:
        pairs = zip(text[begin:], secret, strict=False)
        end = begin + sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        masked = _MASK.match(text, end)
        long = _LONG_AT_END if end == len(text) else _LONG_PART
        if masked or end - begin >= min(long, len(secret)):
            kept += [text[done:begin], "***"]
            done = end if not masked else masked.end() + _HEAD * text.startswith(secret[-_HEAD:], masked.end())
        begin = text.find(head, max(done, begin + 1))
    return "".join(kept) + text[done:]
