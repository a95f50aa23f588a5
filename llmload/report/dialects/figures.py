"""What a tool prints: figures under its own names, in sections."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure: its key in the tool's own export, where the tool prints it, and its value; None is not known."""

    key: str
    row: str
    column: str = ""
    value: float | None
    digits: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a tool prints under one heading."""

    title: str
    figures: tuple[Figure, ...]
