"""Users that are not llmload's, beside ours in one locustfile: what they did and what failed, by Locust's tables."""

from locust.env import Environment
from locust.stats import StatsError

from collections import Counter
from typing import Final

from llmload.loadgen.locust_statistics import exceptions_of
from llmload.runs.summary_parts import OtherFailure, OtherUsers

MOST: Final = 3
"""How many failures a summary names."""
MAX_CHARACTERS: Final = 300
"""How much of what a failure says is kept."""
_OURS: Final = frozenset({"LLM", "TTFT", "TPOT"})
"""The types of llmload's own rows in Locust's tables."""


def other_users(environment: Environment) -> OtherUsers | None:
    """
    Return what other users did in the current run; None if there are none, and no task raised anything.

    Locust makes its exit code 1 for the same failures and exceptions.
    """
    stats = environment.stats
    entries = [entry for (_, method), entry in stats.entries.items() if method not in _OURS]
    failures = [error for error in stats.errors.values() if error.method not in _OURS]
    said, exceptions = Counter[str](), Counter[str]()
    for each in failures:
        said[_line(f"{each.method} {each.name}: {_words(each)}")] += each.occurrences
    for text, count in exceptions_of(environment):
        exceptions[_line(f"a task raised {text}")] += count
    if not entries and not exceptions:
        return None
    return OtherUsers(
        requests=sum(entry.num_requests for entry in entries),
        failed=sum(each.occurrences for each in failures),
        exceptions=exceptions.total(),
        most_frequent=tuple(
            OtherFailure(text=text, count=count) for text, count in (said + exceptions).most_common(MOST)
        ),
    )


def _words(error: StatsError) -> str:
    return str(StatsError.parse_error(error.error))


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"
