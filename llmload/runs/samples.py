"""The samples of engines and GPUs in a run's folder, read beside its load."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmload.errors import RunFolderError, plain
from llmload.runs.reading import LATEST_UNIX_S, is_there, named, number_in, read_table

MAX_PARTS: Final = 1000
"""Engines or GPUs in a file of samples: each has a chart."""
_KEY_COLUMNS: Final = ("unix_s", "url", "part")


@dataclass(slots=True)
class SampledPart:
    """The samples of an engine or a GPU: for each series a list as long as `t_s`, None where it was not served."""

    name: str
    t_s: list[float] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)

    def has(self, series: str) -> bool:
        """Return whether the series was served at all."""
        return any(value is not None for value in self.values.get(series, ()))

    def rate(self, series: str) -> list[float | None]:
        """Return a counter's increase per second up to each sample; None at the first and after a reset."""
        values = self.values[series]
        found: list[float | None] = [None]
        for index in range(1, len(values)):
            new, old, span_s = values[index], values[index - 1], self.t_s[index] - self.t_s[index - 1]
            grown = None if new is None or old is None or span_s <= 0 or new < old else (new - old) / span_s
            found.append(grown)
        return found


def read_samples(folder: Path, file: str, origin_unix_s: float) -> list[SampledPart]:
    """
    Return the engines or GPUs in the file with their samples, in seconds since the run's start; none without a file.

    RunFolderError for a file that is broken in its middle; a last line that a crash cut short is left out.
    """
    path = folder / file
    if not is_there(path):
        return []
    header, rows = read_table(path, _KEY_COLUMNS)
    parts: dict[tuple[str, str], SampledPart] = {}
    for number, row in rows:
        texts = dict(zip(header, row, strict=True))
        url, name = texts.pop("url"), texts.pop("part")
        moment_s = number_in(path, number, "unix_s", texts.pop("unix_s"), least=0.0, most=LATEST_UNIX_S)
        part = parts.setdefault((url, name), SampledPart(_name(url, name)))
        part.t_s.append(moment_s - origin_unix_s)
        for series, text in texts.items():
            value = number_in(path, number, series, text) if text else None
            part.values.setdefault(series, []).append(value)
    if len(parts) > MAX_PARTS:
        raise RunFolderError(f"{named(path)}: has samples of {len(parts)} engines or GPUs, more than {MAX_PARTS}")
    return list(parts.values())


def _name(url: str, part: str) -> str:
    return plain(f"GPU {part}" if part else url.partition("://")[2].partition("/")[0].rpartition("@")[2] or url)
