"""The table of ends: on the terminal, as Markdown and as JSON."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.table import Table

from benchmarks.trials.ends.trial import Result

NUMBERS: Final = ("started", "completed", "failed", "censored", "lines", "said_lost", "logged", "unsent")
HEADS: Final = (
    *("end", "mode", "verdict", "first reason", "exit"),
    *("started", "compl.", "failed", "cut", "lines", "said lost", "engine's log", "unsent", "s", ""),
)
LEFT: Final = 4
"""Columns of text, before those of numbers."""


def cells_of(result: Result) -> tuple[str, ...]:
    """Return a row's cells."""
    came, row = result.came, result.case.row
    counts = [str(getattr(came.accounts, name)) for name in NUMBERS]
    mark = "PASS" if result.passed else "FAIL"
    return (
        row.name,
        str(result.case.mode),
        came.level,
        came.first_reason,
        str(came.code),
        *counts,
        f"{came.seconds:.1f}",
        mark,
    )


def ends_table(results: Sequence[Result]) -> Table:
    """Return a row per case, and how many are as expected."""
    table = Table(title="Ends of runs", title_justify="left", caption=caption(results), caption_justify="left")
    for number, head in enumerate(HEADS):
        table.add_column(head, justify="left" if number < LEFT or not head else "right", no_wrap=number > 0)
    for result in results:
        *cells, mark = cells_of(result)
        table.add_row(*cells, f"[{'green' if result.passed else 'red'}]{mark}")
    return table


def caption(results: Sequence[Result]) -> str:
    """Return in words what the table shows."""
    passed = sum(result.passed for result in results)
    return (
        f"{passed} of {len(results)} as expected. In each, started = completed + failed + cut = lines + said lost = "
        "the engine's log + unsent.\nunsent: ended before its last byte was sent, or by an error of its connection, so "
        "the engine may not have seen it.\nWhat a process had in flight as it was killed is in the engine's log alone."
    )


def fault_lines(results: Iterable[Result]) -> list[str]:
    """Return a line for each thing that was not as expected."""
    return [f"{result.case.name}: {fault}" for result in results for fault in result.faults]


def as_markdown(results: Sequence[Result], left_out: Iterable[str]) -> str:
    """Return the table, what is not as expected, and what was left out, in Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * LEFT + "---:|" * (len(HEADS) - LEFT - 1) + "---|"]
    lines += [f"| {' | '.join(cells_of(result))} |" for result in results]
    lines += ["", *caption(results).splitlines()]
    faults = [f"- {line}" for line in (*fault_lines(results), *left_out)]
    return "\n".join([*lines, "", *faults]) + "\n"


def as_json(results: Sequence[Result]) -> str:
    """Return a list of objects, a case each."""
    rows: list[dict[str, Any]] = []
    for result in results:
        came, case = result.came, result.case
        rows.append(
            {
                "end": case.row.name,
                "mode": str(case.mode),
                "steps": [step.text for step in (*case.row.steps_before, *case.row.steps)],
                "level": came.level,
                "reasons": [reason["text"] for reason in came.reasons],
                "first_reason": came.first_reason,
                "exit_code": came.code,
                **{name: getattr(came.accounts, name) for name in NUMBERS},
                "seconds": round(came.seconds, 2),
                "passed": result.passed,
                "faults": list(result.faults),
            }
        )
    return json.dumps(rows, indent=2) + "\n"
