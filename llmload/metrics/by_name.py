"""Totals of requests by their names: a bounded set, so that no locustfile fills messages, reports or Prometheus."""

from typing import Final, Self

from llmload.metrics.requests import RequestTable
from llmload.metrics.totals import RunTotals
from llmload.record import RequestRecord, Slo, Window

MAX_NAMES: Final = 32
"""Names with separate totals; a process takes half a megabyte for each."""
MAX_NAME_CHARACTERS: Final = 100
OTHER_NAMES: Final = "other names"
"""The row of all further names together."""


class NamedTotals(dict[str, RunTotals]):
    """The totals of each name, in the order in which they came."""

    def of(self, name: str) -> RunTotals:
        """Return the totals that requests of that name count in."""
        totals = self.get(name)
        if totals is None:
            if len(self) >= MAX_NAMES:
                name = OTHER_NAMES
            totals = self.setdefault(name, RunTotals())
        return totals

    def add(self, record: RequestRecord, *, window: Window, slo: Slo, run_start_ns: int) -> None:
        """Count a request that has ended, if it has a name."""
        if record.name is not None:
            self.of(record.name).add(record, window=window, slo=slo, run_start_ns=run_start_ns)

    def add_table(self, table: RequestTable, *, window: Window, slo: Slo) -> None:
        """Count the requests of a table that have a name."""
        names = table.categories["name"]
        for name in dict.fromkeys(filter(None, names)):
            self.of(name).add_table(table.with_name(name), window=window, slo=slo)

    def merge(self, *others: Self) -> None:
        """Add the totals of the others."""
        for other in others:
            for name, totals in other.items():
                self.of(name).merge(totals)


def as_name(text: str) -> str:
    """Return a text as a name: on one line, and not longer than a name may be."""
    return " ".join(text.split())[:MAX_NAME_CHARACTERS] or OTHER_NAMES
