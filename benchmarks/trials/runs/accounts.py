"""One run's accounts: llmload's counts, its files, the engine's log, and where they differ."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

OUTCOMES: Final = ("completed", "failed", "censored")
UNREACHED: Final = frozenset(
    {"dns", "connect_refused", "connect_timeout", "connect_failed", "tls", "reset", "incomplete_stream"}
)
"""Errors of a connection: an engine that went away may never have read a request that ended with one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """
    The accounts of one run; `differences` has a sentence for each disagreement.

    A request is `unsent` when it ended before its last byte was sent (for example while its connection was opened): it
    was started and has its line, but the engine may not have seen it, so it is counted apart. So is one that ended with
    an error of its connection.
    """

    started: int
    completed: int
    failed: int
    censored: int
    lines: int
    said_lost: int
    """Lines that the run says it could not write."""
    unsent: int
    logged: int
    differences: tuple[str, ...]

    @classmethod
    def of(
        cls,
        requests: Mapping[str, int],
        lines: Iterable[Mapping[str, Any]],
        log: Iterable[Mapping[str, Any]],
        *,
        said_lost: int = 0,
        killed: int = 0,
    ) -> Self:
        """
        Return the accounts of a summary's requests, the files' lines and the engine's log.

        `killed` is how many requests may have no line since their process was killed before it could write one.
        """
        lines, log = list(lines), list(log)
        counted = {name: requests[name] for name in ("started", *OUTCOMES)}
        seen = {line["request_id"] for line in log}
        unsent = {line["request_id"] for line in lines if _never_left(line, seen)}
        return cls(
            **counted,
            lines=len(lines),
            said_lost=said_lost,
            unsent=len(unsent),
            logged=len(log),
            differences=(
                *_in_sums(counted, lines, said_lost),
                *_in_names(lines, log, unsent, without_line=said_lost + killed),
            ),
        )


def _never_left(line: Mapping[str, Any], seen: set[str]) -> bool:
    if line["sent_ns"] is None:
        return True
    return line["request_id"] not in seen and (line.get("error") or {}).get("type") in UNREACHED


def _in_sums(counted: Mapping[str, int], lines: list[Mapping[str, Any]], said_lost: int) -> list[str]:
    found = [] if counted["started"] else ["nothing was started"]
    ended = sum(counted[outcome] for outcome in OUTCOMES)
    if counted["started"] != ended:
        found.append(f"{counted['started']} started, {ended} ended")
    if counted["started"] != len(lines) + said_lost:
        lost = f" and {said_lost} said to be lost" if said_lost else ""
        found.append(f"{counted['started']} started, {len(lines)} lines{lost}")
    outcomes = Counter(line["outcome"] for line in lines)
    lacking = {outcome: counted[outcome] - outcomes[outcome] for outcome in OUTCOMES}
    if sum(lacking.values()) == said_lost and min(lacking.values()) >= 0:
        return found
    return found + [
        f"{counted[outcome]} {outcome}, {outcomes[outcome]} lines with that outcome"
        for outcome in OUTCOMES
        if lacking[outcome]
    ]


def _in_names(
    lines: list[Mapping[str, Any]], log: list[Mapping[str, Any]], unsent: set[str], *, without_line: int
) -> list[str]:
    """Compare request ids, so that a lost request and a doubled one do not cancel out."""
    written = Counter(line["request_id"] for line in lines)
    seen = Counter(line["request_id"] for line in log)
    found = [
        f"{name} has {times} lines{where}"
        for counts, where in ((written, ""), (seen, " in the engine's log"))
        for name, times in counts.items()
        if times > 1
    ]
    unwritten = sorted(seen.keys() - written.keys())
    if len(unwritten) > without_line:
        found += [f"{name} is in no file" for name in unwritten]
    return found + [f"{name} was sent, and the engine did not see it" for name in written.keys() - seen.keys() - unsent]
