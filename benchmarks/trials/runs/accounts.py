"""One run's accounts: llmload's counts, its files, the engine's log, and where they differ."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """
    The accounts of one run; `differences` has a sentence for each disagreement.

    A request is `unsent` when it ended before its last byte was sent (for example while its connection was opened): it
    was started and has its line, but the engine may not have seen it, so it is counted apart.
    """

    started: int
    completed: int
    failed: int
    censored: int
    lines: int
    unsent: int
    logged: int
    differences: tuple[str, ...]

    @classmethod
    def of(
        cls,
        requests: Mapping[str, int],
        lines: Iterable[Mapping[str, Any]],
        log: Iterable[Mapping[str, Any]],
    ) -> Self:
        """Return the accounts of a summary's requests, the files' lines and the engine's log."""
        lines, log = list(lines), list(log)
        counted = {name: requests[name] for name in ("started", "completed", "failed", "censored")}
        unsent = {line["request_id"] for line in lines if line["sent_ns"] is None}
        return cls(
            **counted,
            lines=len(lines),
            unsent=len(unsent),
            logged=len(log),
            differences=(*_in_sums(counted, lines), *_in_names(lines, log, unsent)),
        )


def _in_sums(counted: Mapping[str, int], lines: list[Mapping[str, Any]]) -> list[str]:
    found = [] if counted["started"] else ["nothing was started"]
    ended = counted["completed"] + counted["failed"] + counted["censored"]
    if counted["started"] != ended:
        found.append(f"{counted['started']} started, {ended} ended")
    if counted["started"] != len(lines):
        found.append(f"{counted['started']} started, {len(lines)} lines")
    outcomes = Counter(line["outcome"] for line in lines)
    return found + [
        f"{counted[outcome]} {outcome}, {outcomes[outcome]} lines with that outcome"
        for outcome in ("completed", "failed", "censored")
        if outcomes[outcome] != counted[outcome]
    ]


def _in_names(lines: list[Mapping[str, Any]], log: list[Mapping[str, Any]], unsent: set[str]) -> list[str]:
    """Compare request ids, so that a lost request and a doubled one do not cancel out."""
    written = Counter(line["request_id"] for line in lines)
    seen = Counter(line["request_id"] for line in log)
    found = [
        f"{name} has {times} lines{where}"
        for counts, where in ((written, ""), (seen, " in the engine's log"))
        for name, times in counts.items()
        if times > 1
    ]
    found += [f"{name} is in no file" for name in seen.keys() - written.keys()]
    return found + [f"{name} was sent, and the engine did not see it" for name in written.keys() - seen.keys() - unsent]
