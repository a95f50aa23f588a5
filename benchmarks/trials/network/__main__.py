"""
Whether the packet ring's stamps are right on real networks: `python -m benchmarks.trials.network`.

Each row has an exact engine, llmload's client and, where the bytes are not encrypted, a capture beside it. Needs root.
"""

import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.trials.network.rows import ROWS
from benchmarks.trials.network.trial import Result, run_row


@click.command()
@click.option("--only", default="", help="Only rows with this in their name.")
@click.option("--keep", type=click.Path(path_type=Path), default=None, help="Keep logs and records in this folder.")
def main(only: str, keep: Path | None) -> None:
    """Run all rows and print a table; exit code 1 where something is not as it must be."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="llmload-network-") as temporary:
        for number, row in enumerate(row for row in ROWS if only.lower() in row.name.lower()):
            folder = (keep or Path(temporary)) / f"{number}"
            folder.mkdir(parents=True, exist_ok=True)
            result = run_row(row, folder)
            results.append(result)
            for fault in result.faults:
                click.echo(f"{row.name}: {fault}")
    Console(highlight=False, width=None if Console().is_terminal else 200).print(_table(results))
    sys.exit(any(result.faults for result in results))


def _table(results: list[Result]) -> Table:
    table = Table(title="The packet ring on real networks", title_justify="left")
    for number, head in enumerate(("row", *(results[0].cells if results else ()), "")):
        table.add_column(head, justify="right" if number else "left")
    for result in results:
        mark = "[red]FAIL" if result.faults else "[green]PASS"
        table.add_row(result.row.name, *result.cells.values(), mark)
    return table


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.network")
