"""The rows of the table of ends, and what is expected for each."""

from typing import Final

from benchmarks.trials.ends.row import Row
from benchmarks.trials.ends.rows import engines, folders, loads, processes, signals, web

ROWS: Final[tuple[Row, ...]] = (*loads.ROWS, *engines.ROWS, *signals.ROWS, *processes.ROWS, *folders.ROWS, *web.ROWS)
