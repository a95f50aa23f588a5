"""Units: how many of one make another, and how figures and tables of them are written as text."""

import re
from collections.abc import Container, Iterable, Sequence
from typing import Final

# How many of one unit make another: every conversion of the package reads from here.

NS_PER_S: Final = 1_000_000_000
MS_PER_S: Final = 1000
NS_PER_MS: Final = 1_000_000
S_PER_MIN: Final = 60
S_PER_H: Final = 3600
J_PER_KWH: Final = 3_600_000
MJ_PER_J: Final = 1000
"""Millijoules: NVML counts energy in them."""

KIB: Final = 1024
"""Bytes; a name without `_PER_` is a number of bytes."""
GIB: Final = 2**30
GB: Final = 10**9
MIB_PER_GIB: Final = 1024


UNKNOWN: Final = "n/a"
_SPECIAL: Final = re.compile(r"[\\`*\[\]|]|\b_|_\b|<(?=[A-Za-z/!?])|(?<=\S)>")
_HTML: Final = {"<": "&lt;", ">": "&gt;"}


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """Return a number with thousands separated and `digits` after the point; None is n/a."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}{unit}"


def amount(value: float | None, unit: str = "") -> str:
    """Return a number, whole where it is an integer or from 1,000 on, else with two digits; None is n/a."""
    whole = value is not None and (abs(value) >= 1000 or float(value).is_integer())
    return number(value, 0 if whole else 2, unit)


def significant(value: float | None, unit: str = "") -> str:
    """Return a number of about four significant digits, whole from 1,000 on; None is n/a."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}{unit}" if abs(value) >= 1000 else f"{value:.4g}{unit}"


def rounded(value: float) -> str:
    """Return a number of about three digits, whole from 100 on: what a sentence can hold."""
    return number(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)


def rounded_ms(value_s: float) -> str:
    """Return seconds as milliseconds of about three digits, without the unit."""
    return rounded(value_s * MS_PER_S)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, which takes an s for all but one: `1 user`, `8 users`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def milliseconds(value_s: float | None) -> str:
    """Return seconds as milliseconds of about four digits, without the unit; None is n/a."""
    if value_s is None:
        return UNKNOWN
    ms = value_s * MS_PER_S
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.1f}" if ms >= 100 else f"{ms:.2f}"


def percent(ratio: float | None, digits: int = 1) -> str:
    """Return a ratio in per cent; None is n/a."""
    return UNKNOWN if ratio is None else f"{ratio:.{digits}%}"


class Markdown(str):
    """Text that is Markdown already: `escaped` and `markdown_table` leave it as it is."""

    __slots__ = ()


def escaped(text: str) -> Markdown:
    """Return plain text as Markdown on one line: no character of it formats, makes an HTML tag or ends a cell."""
    if isinstance(text, Markdown):
        return text
    return Markdown(" ".join(_SPECIAL.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), text).split()))


def bold(text: str) -> Markdown:
    """Return plain text in bold."""
    return Markdown(f"**{escaped(text)}**")


def code(text: str) -> Markdown:
    """Return plain text as code; a backtick in it becomes an apostrophe."""
    return Markdown(f"`{' '.join(text.replace('`', chr(39)).replace('|', chr(92) + '|').split())}`")


def markdown_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Container[int] = (),
    padded: bool = False,
    outer: bool = True,
) -> str:
    """
    Return a GitHub Markdown table; cells that are not `Markdown` are escaped.

    `right` has the indices of right-aligned columns. `padded` aligns the source too; then `outer` says whether lines
    begin and end with a bar.
    """
    lines = [[escaped(cell) for cell in line] for line in (header, *rows)]
    if not padded:
        rule = " | ".join("---:" if index in right else "---" for index in range(len(header)))
        first, *others = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([first, f"| {rule} |", *others])
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        " | ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    if not outer:
        return "\n".join([text[0].rstrip(), " | ".join("-" * width for width in widths), *map(str.rstrip, text[1:])])
    rule = "|".join(f"{'-' * (width + 1)}{':' if index in right else '-'}" for index, width in enumerate(widths))
    return "\n".join([f"| {text[0]} |", f"|{rule}|", *(f"| {line} |" for line in text[1:])])
