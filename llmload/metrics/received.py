"""
Totals that another process has sent: read only where `RunTotals.to_message` can have written them.

What is wrong is a ValueError that names the figure. Whether totals contradict themselves or what was sent before is for
`contradiction` and `step_back` to say.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain
from typing import Any, Final

from llmload.metrics.by_name import MAX_NAMES, NamedTotals, as_name
from llmload.metrics.failures import SENT, WORDS, Failures
from llmload.metrics.requests import DISTRIBUTIONS, REQUEST_DISTRIBUTIONS, WITH_EXEMPLARS
from llmload.metrics.totals import Distributions, Exemplars, RunTotals
from llmload.record import ErrorType
from llmload.stats.histogram import EXEMPLARS_KEPT
from llmload.stats.packed import finite, whole

_FIELDS: Final = {each.name: getattr(RunTotals(), each.name) for each in fields(RunTotals)}
_MOST_NAMES: Final = 256
"""More than there are error types, finish reasons, or reasons for a lost line."""
_NAME_CHARACTERS: Final = 512
_WORDS_CHARACTERS: Final = 4096
_MOST_STATUS: Final = 999


def totals_of(message: object) -> RunTotals:
    """Return the totals that another process sent; ValueError, with the figure, if they are none."""
    if not isinstance(message, dict) or message.keys() != _FIELDS.keys():
        raise ValueError("these are not the figures of this version")
    for name, value in message.items():
        try:
            _check(_FIELDS[name], value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from None
    try:
        totals = RunTotals.from_message(message)
        RunTotals().merge(totals)  # fails now, not later, when no sender is known any more
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"distributions, failures or exemplars: {error}") from None
    return totals


def named_totals_of(message: Mapping[Any, Any]) -> NamedTotals:
    """Return the totals by name that another process sent; ValueError if they are none, or too many."""
    if len(message) > MAX_NAMES + 1:
        raise ValueError(f"has totals of more than {MAX_NAMES} names")
    if any(not isinstance(name, str) or as_name(name) != name for name in message):
        raise ValueError("has totals of a name that is none")
    return NamedTotals({name: totals_of(each) for name, each in message.items()})


def _check(like: object, value: Any) -> None:
    """Raise ValueError or TypeError where a value cannot be that of a figure."""
    match like:
        case Counter():
            _check_counts(value)
        case Distributions():
            _check_names(value, DISTRIBUTIONS)
        case Exemplars():
            _check_names(value, WITH_EXEMPLARS)
            if any(len(few) > EXEMPLARS_KEPT for few in value.values()):
                raise ValueError("has more than a process keeps")
        case Failures():
            _check_failures(value)
        case None:
            if value is not None:
                finite(value)
        case float():
            finite(value)
        case _:
            whole(value)


def _check_counts(value: Any) -> None:
    if not isinstance(value, dict) or len(value) > _MOST_NAMES:
        raise ValueError(f"is no table of at most {_MOST_NAMES} counts")
    for name, count in value.items():
        if not isinstance(name, str) or len(name) > _NAME_CHARACTERS:
            raise ValueError("has a name that is none")
        whole(count)


def _check_names(value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, dict) or not value.keys() <= set(known):
        raise ValueError(f"has other names than {', '.join(known)}")


def _check_failures(value: Any) -> None:
    if not isinstance(value, list) or len(value) > len(ErrorType) * _MOST_STATUS:
        raise ValueError("is no list")
    kinds, said = set(), 0
    for error_type, http_status, depth, found in value:
        kinds.add((ErrorType(error_type), None if http_status is None else whole(http_status, _MOST_STATUS)))
        whole(depth, WORDS)
        for words, count, more in found:
            said += 1
            whole(count)
            if not (isinstance(words, str) and len(words) <= _WORDS_CHARACTERS and isinstance(more, bool)):
                raise ValueError("has words that are none")
    if said > SENT[0] or len(kinds) < len(value):
        raise ValueError("has more than a process sends")


# What cannot be, although each figure alone can.

_PARTS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "completed": ("good", "completed_in_window", "first_chunk_shared", "contradicted_answers", "uncounted_answers"),
    "completed_in_window": ("good_in_window",),
    "good": ("good_in_window",),
    "failed": ("failed_in_window", "errors"),
    "ended": ("lost_lines",),
}
"""Counts, and what each cannot be smaller than."""
_TALLIES: Final = ("finish_reasons", "token_sources", "stamp_sources")
"""Of answers whose request started in the window."""
_MAY_FALL: Final = frozenset({"lost_lines", "first_started_s"})
"""Lines that were held back are written once there is room; a later answer may have started first."""
_SHARE: Final = 1e-9


def contradiction(totals: RunTotals, *, is_whole: bool) -> str | None:
    """
    Return how totals contradict themselves; None if they do not.

    `is_whole`: they are of a whole run, not of one of its phases, so all that was started and answered is in them.
    """
    return next(chain(_contradictions(totals), _contradictions_of_a_run(totals) if is_whole else ()), None)


def _contradictions(totals: RunTotals) -> Iterator[str]:
    for most, parts in _PARTS_OF.items():
        for part in parts:
            if _count(totals, part) > _count(totals, most):
                yield f"{part} is {_count(totals, part)}, more than {most}, {_count(totals, most)}"
    answers = totals.distributions.of("e2e_s").count
    for name in _TALLIES:
        if _count(totals, name) != answers:
            yield f"{name} has {_count(totals, name)} answers, and e2e_s {answers}"
    for name in REQUEST_DISTRIBUTIONS:
        seen, failed = totals.all_answers(name).count, totals.distributions.of(name).infinite
        if failed > totals.failed:
            yield f"{name} has {failed} failures, more than failed, {totals.failed}"
        if name != "itl_s" and seen > totals.completed:
            yield f"{name} has {seen} values, more than completed, {totals.completed}"
    if (totals.last_done_s or 0.0) < (totals.first_started_s or 0.0):
        yield "the last request ended before the first was started"


def _contradictions_of_a_run(totals: RunTotals) -> Iterator[str]:
    if totals.ended > totals.started:
        yield f"{totals.ended} requests ended, and {totals.started} were started"
    answers = totals.all_answers("e2e_s").count
    if answers != totals.completed:
        yield f"e2e_s has {answers} values, and completed is {totals.completed}"


def step_back(before: Mapping[str, float], totals: RunTotals) -> str | None:
    """Return which figure has become smaller since `levels` of the totals sent before; None where none has."""
    now = levels(totals)
    for name, level in before.items():
        if now[name] < level * (1 - _SHARE):
            return f"{name} was {level:g}, and is {now[name]:g}"
    return None


def levels(totals: RunTotals) -> dict[str, float]:
    """Return the figures that only grow while a process counts."""
    return dict(_levels(totals))


def _levels(totals: RunTotals) -> Iterator[tuple[str, float]]:
    for each in fields(RunTotals):
        value = getattr(totals, each.name)
        if each.name in _MAY_FALL:
            continue
        if isinstance(value, Counter):
            yield each.name, value.total()
        elif isinstance(value, int | float):
            yield each.name, value
    for name in DISTRIBUTIONS:
        yield f"{name} values", totals.distributions.of(name).count
        yield f"{name} failures", totals.distributions.of(name).infinite


def _count(totals: RunTotals, name: str) -> int:
    value: int | Counter[str] = getattr(totals, name)
    return value.total() if isinstance(value, Counter) else value
