"""What engine and GPUs said of themselves while a run went on, read from its folder."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from llmload.errors import RunFolderError

ENGINE_FILE, GPU_FILE = "engine_metrics.csv", "gpu_metrics.csv"
_BESIDES: Final = {"unix_s", "url", "part"}


@dataclass(slots=True)
class Part:
    """One engine's or GPU's samples: `values` has a list a series, as long as `t_s`, None where it served none."""

    name: str
    t_s: list[float] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)

    def has(self, series: str) -> bool:
        """Return whether the series was served at all."""
        return any(value is not None for value in self.values.get(series, ()))

    def rate(self, series: str) -> list[float | None]:
        """Return by how much a counter grew a second up to each sample; None at the first and where it was reset."""
        values = self.values[series]
        found: list[float | None] = [None]
        for place in range(1, len(values)):
            new, old, span_s = values[place], values[place - 1], self.t_s[place] - self.t_s[place - 1]
            grown = None if new is None or old is None or span_s <= 0 or new < old else (new - old) / span_s
            found.append(grown)
        return found


def read_monitored(folder: Path, file: str, origin_unix_s: float) -> list[Part]:
    """
    Return the parts in the file, each with its samples over the seconds since the run's start; none without a file.

    RunFolderError for a file that is broken in its middle; a last line that a crash cut short is left out.
    """
    path = folder / file
    if not path.is_file():
        return []
    parts: dict[tuple[str, str], Part] = {}
    for row in _rows(path):
        part = parts.setdefault((row["url"], row["part"]), Part(_name(row["url"], row["part"])))
        try:
            moment_s = float(row["unix_s"]) - origin_unix_s
            values = {name: float(text) if text else None for name, text in row.items() if name not in _BESIDES}
        except (ValueError, TypeError):
            raise RunFolderError(f"{path}: a sample is no number: {row}") from None
        part.t_s.append(moment_s)
        for name, value in values.items():
            part.values.setdefault(name, []).append(value)
    return list(parts.values())


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(line for line in lines if line.endswith("\n"))
        if rows.fieldnames is None:
            return
        if not set(rows.fieldnames) >= _BESIDES:
            raise RunFolderError(f"{path}: has no columns {', '.join(sorted(_BESIDES))}")
        yield from rows


def _name(url: str, part: str) -> str:
    return f"GPU {part}" if part else urlsplit(url).netloc.rpartition("@")[2] or url
