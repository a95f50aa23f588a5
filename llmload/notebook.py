"""A run folder as typed objects and pandas DataFrames, for notebooks and scripts: docs/notebook.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd

from llmload.errors import plain
from llmload.metrics.lines import columns_of
from llmload.metrics.requests import COLUMNS, RUN_ID, Columns, Field, Kind, Mask
from llmload.prometheus.pages import ENGINE, GPU, ScrapedFigure
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS, Manifest, RunFolder
from llmload.runs.loaded_run import MIN_SPAN_S, read_summary
from llmload.runs.reading import LATEST_UNIX_S, is_there, number_in, read_columns, read_table
from llmload.runs.summary import Summary
from llmload.runs.timeline import read_periods
from llmload.units import NS_PER_S

DTYPES: Final = {
    Kind.TEXT: "string",
    Kind.CATEGORY: "category",
    Kind.UNIX: "datetime64[ns, UTC]",
    Kind.FLOAT: "float64",
    Kind.COUNT: "Int64",
    Kind.CLOCK: "Int64",
    Kind.FLAG: "bool",
}
_FILED: Final = tuple(column for column in COLUMNS if column.kind is not Kind.LIST)
_UNIX: Final = next(column for column in _FILED if column.kind is Kind.UNIX)
_TIME: Final = Field("time", Kind.UNIX, "", _UNIX.meaning.partition(",")[0])
_ADDED: Final = (
    Field("start_s", Kind.FLOAT, "s", "start, since the run's start"),
    Field("schedule_lag_s", Kind.FLOAT, "s", "start - when it was due; an open loop's"),
    Field("in_window", Kind.FLAG, "", "it started in the measurement window: of its stage, in a load with stages"),
)
REQUEST_COLUMNS: Final = (*(_TIME if column is _UNIX else column for column in _FILED), *_ADDED)
"""The columns of `RunData.requests`."""
SAMPLE_COLUMNS: Final = (
    Field("time", Kind.UNIX, "", "when it was read"),
    Field("url", Kind.CATEGORY, "", "the address that it was read from"),
    Field("part", Kind.CATEGORY, "", "the GPU, where the address serves several; else empty"),
)
"""The first columns of `RunData.engine_samples` and `.gpu_samples`; a float64 column for each figure follows."""


@dataclass(frozen=True, kw_only=True)  # no slots: cached_property needs __dict__
class RunData:
    """What a run left behind; each part is read when it is first used."""

    folder: RunFolder

    @classmethod
    def of(cls, path: str | Path) -> Self:
        """Return the data of a run's folder; RunFolderError if it has no manifest, or one of another version."""
        self = cls(folder=RunFolder(Path(path)))
        self.manifest  # noqa: B018 - fails here rather than in a later cell
        return self

    @cached_property
    def manifest(self) -> Manifest:
        """`manifest.json`: what was run."""
        return self.folder.manifest()

    @cached_property
    def summary(self) -> Summary:
        """`summary.json`: what was measured; counted from the requests where the run ended without one."""
        return read_summary(self.folder)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """Every request that ended, a row each, in the order in which they started: `REQUEST_COLUMNS`."""
        run_id = self.manifest.run_id
        blocks = [_frame(columns, run_id) for columns in read_columns(self.folder.request_files(), lists=())]
        frame = pd.concat(blocks or [_frame(columns_of([], ()), run_id)], ignore_index=True).sort_values(
            _UNIX.name, ignore_index=True
        )
        frame["start_s"] = frame[_UNIX.name] - self.manifest.started_unix_s
        frame["schedule_lag_s"] = (frame["started_ns"] - frame["scheduled_ns"]).astype("Float64") / NS_PER_S
        frame["in_window"] = self._in_window(frame)
        frame["time"] = pd.to_datetime(_whole_ns(frame[_UNIX.name]), unit="ns", utc=True)
        return frame[[column.name for column in REQUEST_COLUMNS]].astype(
            {column.name: DTYPES[column.kind] for column in REQUEST_COLUMNS}
        )

    @cached_property
    def engine_samples(self) -> pd.DataFrame:
        """What each engine reported of itself, a row a reading; empty unless `[monitor]` read it."""
        return _samples(self.folder.path / ENGINE_METRICS, ENGINE)

    @cached_property
    def gpu_samples(self) -> pd.DataFrame:
        """What DCGM reported of each GPU, a row a reading; empty unless `[monitor]` read it."""
        return _samples(self.folder.path / GPU_METRICS, GPU)

    def _in_window(self, frame: pd.DataFrame) -> Mask:
        start_ns = _whole_ns(frame["start_s"])
        last_s = float((frame["start_s"] + frame["e2e_s"]).max()) if len(frame) else 0.0
        periods = read_periods(self.manifest, last_s=last_s, span_s=max(last_s, MIN_SPAN_S))
        windows = [stage.window for stage in periods.stages] or [periods.window]
        inside: Mask = np.logical_or.reduce([window.which(start_ns) for window in windows])
        return inside


def dtype_of(column: Field) -> str:
    """Return a column's pandas dtype."""
    return DTYPES[column.kind]


def _whole_ns(seconds: "pd.Series[float]") -> Any:
    return np.rint(seconds.to_numpy(dtype=np.float64) * NS_PER_S).astype(np.int64)


def _frame(columns: Columns, run_id: str) -> pd.DataFrame:
    """Return a block of a request file; categories and times are made of all blocks together."""
    before = {Kind.CATEGORY: "string", Kind.UNIX: "float64"}
    return pd.DataFrame(
        {
            each.name: pd.array(list(values), dtype=before.get(each.kind, DTYPES[each.kind]))  # type: ignore[call-overload]  # the stubs want literals
            for each in _FILED
            for values in [[run_id] * len(columns) if each is RUN_ID else columns.values[each.name]]
        }
    )


def _samples(file: Path, figures: Sequence[ScrapedFigure]) -> pd.DataFrame:
    keys = ["unix_s", "url", "part"]
    header, rows = read_table(file, keys) if is_there(file) else ([*keys, *(each.name for each in figures)], iter(()))
    numbers = [name for name in header if name not in {"url", "part"}]
    content: dict[str, list[Any]] = {name: [] for name in header}
    for line, row in rows:
        for name, text in zip(header, row, strict=True):
            content[name].append(_value(file, line, name, text) if name in numbers else plain(text))
    frame = pd.DataFrame(content)
    frame.insert(0, "time", pd.to_datetime(_whole_ns(frame.pop("unix_s").astype("float64")), unit="ns", utc=True))
    dtypes = {column.name: DTYPES[column.kind] for column in SAMPLE_COLUMNS}
    return frame.astype(dtypes | {name: "float64" for name in numbers if name != "unix_s"})


def _value(file: Path, line: int, name: str, text: str) -> float | None:
    if name == "unix_s":
        return number_in(file, line, name, text, least=0.0, most=LATEST_UNIX_S)
    return number_in(file, line, name, text) if text else None
