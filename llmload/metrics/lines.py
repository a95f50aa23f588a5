"""
Lines of request files as columns, each value of the type and range that its field has.

A column is checked as a whole, by the set of its values' types and by an array's extremes: that costs a tenth of what a
check of each value does. A fault is then looked for line by line.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import Any, Final

from llmload.metrics.requests import FIELD, FIELDS, LINE_KEYS, LIST_KEYS, Columns, Field, Kind
from llmload.record import ENGINE_WRITES, RESET_BY, ErrorType, Outcome, ReasoningSource, StampSource, TokenSource

SHOWN: Final = 60
"""Characters of a wrong value that an error has."""
_TYPES: Final[Mapping[Kind, frozenset[type]]] = {
    Kind.TEXT: frozenset({str}),
    Kind.CATEGORY: frozenset({str}),
    Kind.UNIX: frozenset({int, float}),
    Kind.FLOAT: frozenset({int, float}),
    Kind.COUNT: frozenset({int}),
    Kind.CLOCK: frozenset({int}),
    Kind.LIST: frozenset({list}),
}
_RANGES: Final[Mapping[Kind, tuple[float, float]]] = {
    Kind.UNIX: (0.0, 2.0**32),
    Kind.FLOAT: (-1e12, 1e12),
    Kind.COUNT: (0.0, 2.0**40),
    Kind.CLOCK: (-(2.0**61), 2.0**61),
}
_IN_LISTS: Final = (-1e14, 1e14)
_NAMES: Final = {
    Kind.TEXT: "a text",
    Kind.CATEGORY: "a text",
    Kind.UNIX: f"a unix time from 0 to {2**32}",
    Kind.FLOAT: "a number from -1e12 to 1e12",
    Kind.COUNT: f"a whole number from 0 to {2**40}",
    Kind.CLOCK: "a clock reading in ns",
    Kind.LIST: "a list of whole numbers from -1e14 to 1e14",
}
_NEVER_NULL: Final = frozenset(
    (
        *("request_id", "prompt_id", "outcome", "time_s", "e2e_s", "token_source", "stamp_source", "chunks"),
        "reasoning_chunks",
        *("coalesced_chunks", "same_segment_chunks", "reconnects", "retries", "started_ns", "done_ns"),
    )
)
_CLOSED: Final[Mapping[str, Collection[str]]] = {
    "outcome": frozenset(Outcome),
    "token_source": frozenset(TokenSource),
    "reasoning_source": frozenset(ReasoningSource),
    "stamp_source": frozenset(StampSource),
    "error_type": frozenset(ErrorType),
    "reset_by": RESET_BY,
    "engine_writes": ENGINE_WRITES,
}
_OF_LINE: Final = tuple(each for each in FIELDS if not each.key and each.kind is not Kind.LIST)
_OF_ERROR: Final = tuple(each for each in FIELDS if each.key == "error")
_ERROR_KEYS: Final = {each.member for each in _OF_ERROR}
_NUMERIC: Final = frozenset(_RANGES)
_READ: Final = {key: itemgetter(key) for key in LINE_KEYS}


@dataclass
class LineFaultError(ValueError):
    """A line that is not a request's, and why."""

    text: str

    def __str__(self) -> str:
        """Return why."""
        return self.text


def columns_of(lines: Sequence[Any], lists: Collection[str] = LIST_KEYS) -> Columns:
    """
    Return the fields of lines as columns, of the lists only those that are named.

    LineFaultError says what is wrong with a line; where there are several lines, not with which.
    """
    if lines and set(map(type, lines)) != {dict}:
        raise LineFaultError("holds no JSON object")
    columns = Columns(len(lines), {})
    try:
        columns.values.update({key: list(map(read, lines)) for key, read in _READ.items()})
    except KeyError as error:
        raise LineFaultError(f"has no {error.args[0]}") from None
    for field in _OF_LINE:
        _check(columns, field)
    _split_errors(columns)
    for key in lists:
        columns.values[key] = [line.get(key) for line in lines]
        _check_lists(columns, FIELD[key])
    return columns


def _check(columns: Columns, field: Field) -> None:
    """Raise LineFaultError for a value of another type, or out of range, than the field has."""
    values = columns.values[field.name]
    types = set(map(type, values))
    if not types <= (_TYPES[field.kind] | ({NoneType} if field.name not in _NEVER_NULL else set())):
        raise _fault(field, values, lambda value: not _fits(field, value))
    closed = _CLOSED.get(field.name)
    if closed is not None and not set(values) <= {None, *closed}:
        raise _fault(
            field, values, lambda value: value is not None and value not in closed, f"one of {', '.join(closed)}"
        )
    if field.kind in _NUMERIC and types - {NoneType}:
        least, most = _RANGES[field.kind]
        array = columns.array(field.name)
        if ((array < least) | (array > most)).any():
            raise _fault(field, values, lambda value: value is not None and not least <= value <= most)


def _fits(field: Field, value: object) -> bool:
    return type(value) in _TYPES[field.kind] or (value is None and field.name not in _NEVER_NULL)


def _fault(
    field: Field, values: Sequence[Any], wrong: Callable[[Any], bool], wanted: str | None = None
) -> LineFaultError:
    value = next(filter(wrong, values), None)
    where = f"{field.key}.{field.member}" if field.key else field.name
    return LineFaultError(f"{where} is {shown(value)}, not {wanted or _NAMES[field.kind]}")


def shown(value: object) -> str:
    """Return a value of a file as text on one line, printable and cut."""
    text = ascii(value) if isinstance(value, str) else "null" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _split_errors(columns: Columns) -> None:
    """Add a column for each member of `error`."""
    errors = columns.values["error"]
    if not set(map(type, errors)) <= {NoneType, dict}:
        wrong = next(error for error in errors if error is not None and not isinstance(error, dict))
        raise LineFaultError(f"error is {shown(wrong)}, not an object")
    failed = [(index, error) for index, error in enumerate(errors) if error is not None]
    for _, error in failed:
        if error.keys() != _ERROR_KEYS:
            odd = next(iter(sorted(_ERROR_KEYS ^ error.keys())))
            raise LineFaultError(f"error has {'no' if odd in _ERROR_KEYS else 'a key'} {shown(odd)}")
    for field in _OF_ERROR:
        found = [error[field.member] for _, error in failed]
        if field.member in {"type", "message"} and None in found:
            raise LineFaultError(f"error.{field.member} is null, not a text")
        column: list[Any] = [None] * len(columns)
        for (index, _), value in zip(failed, found, strict=True):
            column[index] = value
        columns.values[field.name] = column
        if failed:
            _check(columns, field)


def _check_lists(columns: Columns, field: Field) -> None:
    lists = columns.values[field.name]
    if not set(map(type, lists)) <= {list, NoneType}:
        raise _fault(field, lists, lambda value: value is not None and not isinstance(value, list))
    some = [each for each in lists if each]
    if not set(map(type, chain.from_iterable(some))) <= {int}:
        raise _fault(field, list(chain.from_iterable(some)), lambda value: type(value) is not int)
    least, most = _IN_LISTS
    try:
        array = columns.joined(field.name)
        fits = not len(array) or (least <= array.min() and array.max() <= most)
    except OverflowError:
        fits = False
    if not fits:
        raise _fault(field, list(chain.from_iterable(some)), lambda value: not least <= value <= most)


def rows_of(columns: Columns, fields: Sequence[Field], run_id: str) -> Any:
    """Return the rows of a table of those fields; those that a line does not have are the run's id."""
    return zip(*(columns.values.get(each.name) or [run_id] * len(columns) for each in fields), strict=True)
