"""Locust's statistics: its report to the master, its tables and files, and what it counts of users not ours."""

from locust import stats
from locust.env import Environment

import csv
import logging
import sys
import time
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

from llmload.errors import ExitCode
from llmload.loadgen.locust_compat import Worker
from llmload.record import RequestRecord
from llmload.stats.packed import pack_sparse, unpack_sparse
from llmload.units import MS_PER_S

# A worker's report: Locust's tables of response times grow with how widely times spread, so they are packed.

_TENTHS: Final = 10
"""Packed times are whole tenths of a millisecond: `three_digits` rounds to these at the finest."""
_MOST_TIMES: Final = 20_000
"""More than `three_digits` can tell apart: a thousand tenths, and 900 times in each power of ten after them."""


def shrink_report(data: MutableMapping[str, Any]) -> None:
    """Pack the response times in a report that Locust has filled in."""
    for entry in _entries(data):
        times = entry["response_times"].items()
        entry["response_times"] = pack_sparse({round(time * _TENTHS): count for time, count in times})


def restore_report(data: MutableMapping[str, Any]) -> None:
    """
    Undo `shrink_report`, before Locust reads the report; one that a worker's start overtook lacks its users.

    ValueError for times that `three_digits` does not give, so that what Locust adds up has a limit.
    """
    if "stats" in data:
        data.setdefault("user_classes_count", {})
    for entry in _entries(data):
        if isinstance(entry["response_times"], list):
            times = unpack_sparse(entry["response_times"], _MOST_TIMES).items()
            entry["response_times"] = {_of_tenths(tenths): count for tenths, count in times}
        if any(time != three_digits(time) for time in entry["response_times"]):
            raise ValueError("response_times: have more than three digits")


def _entries(data: MutableMapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from data.get("stats", ())
    if "stats_total" in data:
        yield data["stats_total"]


def _of_tenths(tenths: int) -> float:
    return tenths / _TENTHS if tenths % _TENTHS else tenths // _TENTHS


# Locust's statistics: finer times, and rows for TTFT and TPOT beside each request ("Aggregated" stays as it is).

DIGITS: Final = 3
_COARSE_FROM_MS: Final = 10**DIGITS
_TENTHS_BELOW_MS: Final = 100


def use_three_digits() -> None:
    """Make Locust keep three significant digits of a time in this process, where it keeps two."""
    stats.bucket_response_time = three_digits  # type: ignore[assignment]  # Locust adds these up as any numbers


def three_digits(milliseconds: float) -> float:
    """Return a time in milliseconds rounded to three significant digits, to tenths at the finest."""
    if milliseconds < _TENTHS_BELOW_MS:
        return round(milliseconds, 1)
    if milliseconds < _COARSE_FROM_MS:
        return round(milliseconds)
    return round(milliseconds, DIGITS - len(str(int(milliseconds))))


def log_rows(environment: Environment, name: str, record: RequestRecord) -> None:
    """Add a request's TTFT and TPOT to rows that Locust sends to the master and adds up there."""
    if record.ok:
        for row, value_s in (("TTFT", record.ttft_s), ("TPOT", record.tpot_s)):
            if value_s is not None:
                environment.stats.get(name, row).log(value_s * MS_PER_S, 0)  # type: ignore[arg-type]  # as any number


def send_statistics(worker: Worker) -> None:
    """Send the master what a worker's statistics have now, not at the next report."""
    runner: Any = worker
    runner._send_stats()


class WholeCsv(stats.StatsCSVFileWriter):
    """The files of `--csv`, with a last state: Locust writes one each second, and at the end only closes them."""

    def stats_writer(self) -> None:
        """Write a state each second, until the files are closed: Locust's own writer fails then, by a traceback."""
        try:
            super().stats_writer()
        except ValueError:
            if not self.requests_csv_filehandle.closed:
                raise

    def close_files(self) -> None:
        """Write the last state and close; one line and an exit code that is not 0 where the disk has no room."""
        try:
            for file, write in (
                (self.requests_csv_filehandle, self.requests_csv),
                (self.failures_csv_filehandle, self.failures_csv),
                (self.exceptions_csv_filehandle, self.exceptions_csv),
            ):
                file.seek(0)
                write(csv.writer(file))
                file.truncate()
            self._stats_history_data_rows(self.stats_history_csv_writer, time.time())
            super().close_files()
        except OSError as error:
            sys.stderr.write(f"llmload: --csv {self.base_filepath}: cannot be written: {error.strerror}\n")
            sys.exit(self.environment.process_exit_code or ExitCode.FAILED)


def write_csv_to_the_end() -> None:
    """Let `--csv` of this process hold what ended in the drain."""
    stats.StatsCSVFileWriter = WholeCsv  # type: ignore[misc]  # Locust makes its writer by this name


def exceptions_of(environment: Environment) -> Iterator[tuple[str, int]]:
    """Yield what tasks of users raised in the current run, on every process, each with how often."""
    runner: Any = environment.runner
    for row in runner.exceptions.values():
        lines: list[str] = row["traceback"].strip().splitlines()
        yield row["msg"] or (lines[-1] if lines else "an exception"), row["count"]


def silence_tables() -> None:
    """Keep Locust from printing its tables, whose figures ours replace."""
    logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)
