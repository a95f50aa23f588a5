"""The results of a suite: the three reference tables, a line per cell with its verdict, and JSON."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmload.errors import ConfigError, ExitCode
from llmload.report.markdown import THROUGHPUT, Figure, read_figure, reference_tables
from llmload.report.sweep import FRONT, joint_table
from llmload.runs.folder import RunFolder
from llmload.runs.summary import Summary
from llmload.runs.writing import WriteFaults
from llmload.sizing.catalogue import load_model
from llmload.sizing.size_table import REFERENCE_RULE, ReferenceRow, reference_json, reference_markdown, reference_row
from llmload.suite.plan import Cell, SuitePlan
from llmload.suite.state import Status, SuiteState
from llmload.units import UNKNOWN, escaped, markdown_table, number, percent

NOT_DONE = "not done"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOutcome:
    """One cell in the report; None is unknown."""

    cell: str
    engine: str
    model: str
    protocol: str | None
    status: str
    """good, failed, invalid, or not done."""
    reason: str | None
    value: float | None
    unit: str
    verdict: str | None
    mbu: float | None
    implausible: str | None
    requests: int | None
    """Completed requests."""
    engine_version: str | None
    """As the engine reports it."""
    ready_s: float | None
    """How long its engine took from the start command until it was ready; None where the suite did not start it."""
    run_folder: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteOutcome:
    """All cells of a suite, and its models' memory."""

    name: str
    cells: tuple[CellOutcome, ...]
    figures: tuple[Figure, ...]
    memory: tuple[ReferenceRow, ...]
    unknown_models: Mapping[str, str]
    """Models that are not in the sizing catalogue, with the reason."""
    sweeps: Mapping[str, tuple[Summary, ...]]
    """By model and protocol: what sweeps of it measured, of one engine after the other."""
    selected: frozenset[str]
    """The cells that count for the exit code."""

    @property
    def exit_code(self) -> ExitCode:
        """GOOD if all selected cells are good, INVALID if one is, else FAILED: one failed or is not done."""
        statuses = {cell.status for cell in self.cells if cell.cell in self.selected}
        if Status.INVALID in statuses:
            return ExitCode.INVALID
        return ExitCode.GOOD if statuses <= {Status.GOOD} else ExitCode.FAILED


def read_outcome(plan: SuitePlan, state: SuiteState, selected: Collection[str] | None = None) -> SuiteOutcome:
    """Read the results of every cell from the suite's folder; `selected` count for the exit code, None means all."""
    cells, figures = [], []
    sweeps: dict[str, tuple[Summary, ...]] = {}
    for deployment in plan.deployments:
        for cell in deployment.cells:
            done = state.done(cell.name, plan.fingerprint(deployment, cell))
            found, figure = _read_cell(plan, state, cell, done=done)
            cells.append(found)
            figures += [figure] if figure else []
            summary = RunFolder(plan.folder / found.run_folder).summary() if found.run_folder else None
            if summary is not None and summary.sweep is not None:
                same = f"{cell.model}/{cell.protocol}"
                sweeps[same] = (*sweeps.get(same, ()), summary)
    rows, unknown = _memory(plan)
    return SuiteOutcome(
        name=plan.suite.suite.name,
        cells=tuple(cells),
        figures=tuple(figures),
        memory=rows,
        unknown_models=unknown,
        sweeps=sweeps,
        selected=frozenset(cell.cell for cell in cells) if selected is None else frozenset(selected),
    )


def to_markdown(outcome: SuiteOutcome) -> str:
    """Return the three tables, the table of cells, the points of sweeps and the reasons of failed cells."""
    parts = ["## Inference Memory", f"{REFERENCE_RULE}. Its GB is GiB."]
    parts += (
        [reference_markdown(outcome.memory)] if outcome.memory else ["(no model of the suite is known to the sizing)"]
    )
    parts += ["\n".join(f"- {name}: {escaped(why)}" for name, why in outcome.unknown_models.items())]
    parts += [reference_tables(outcome.figures).rstrip(), "## Cells", _cell_table(outcome.cells)]
    parts += ["\n".join(_failures(outcome.cells))]
    for same, summaries in outcome.sweeps.items():
        parts += [f"## Points of {same}", markdown_table(*joint_table(summaries), right=(3, 4, 5), padded=True)]
        parts += [f"{FRONT} on the Pareto front of all engines together"]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_json(outcome: SuiteOutcome) -> dict[str, Any]:
    """Return the results as JSON values."""
    return {
        "suite": outcome.name,
        "exit_code": outcome.exit_code,
        "cells": [asdict(cell) for cell in outcome.cells],
        "memory": reference_json(outcome.memory),
        "unknown_models": dict(outcome.unknown_models),
    }


def _read_cell(plan: SuitePlan, state: SuiteState, cell: Cell, *, done: bool) -> tuple[CellOutcome, Figure | None]:
    found = state.cells.get(cell.name) if done else None
    folder = plan.folder / found.run_folder if found is not None and found.run_folder else None
    figure = read_figure(RunFolder(folder)) if folder is not None else None
    failed = found is not None and found.status is Status.FAILED
    if figure is None and failed:
        figure = _failed_figure(cell)
    scenario = cell.scenario
    bandwidth = figure.bandwidth if figure else None
    outcome = CellOutcome(
        cell=cell.name,
        engine=figure.engine if figure else scenario.engine.display_name,
        model=scenario.model.name,
        protocol=scenario.scenario.protocol,
        status=found.status if found is not None else NOT_DONE,
        reason=found.reason if found is not None else None,
        value=figure.value if figure else None,
        unit="requests/min" if scenario.scenario.protocol == THROUGHPUT else "tok/s",
        verdict=figure.verdict.level if figure and figure.verdict else None,
        mbu=bandwidth.mbu if bandwidth else None,
        implausible=bandwidth.implausible if bandwidth else None,
        requests=RunFolder(folder).summary().requests.completed if folder is not None else None,
        engine_version=found.engine_version if found is not None else None,
        run_folder=found.run_folder if found is not None else None,
        ready_s=state.ready_s.get(cell.deployment) if found is not None else None,
    )
    return outcome, figure


def _failed_figure(cell: Cell) -> Figure:
    scenario = cell.scenario
    return Figure(
        run_id=cell.name,
        protocol=scenario.scenario.protocol,
        engine=scenario.engine.display_name,
        model=scenario.model.name,
        value=None,
        simulated=False,
        verdict=None,
        failed=True,
    )


def _memory(plan: SuitePlan) -> tuple[tuple[ReferenceRow, ...], dict[str, str]]:
    rows: list[ReferenceRow] = []
    unknown: dict[str, str] = {}
    for name, entry in plan.suite.models.items():
        candidates = [entry.catalogue] if entry.catalogue else [name, *([entry.id] if entry.id else [])]
        for candidate in candidates:
            try:
                rows.append(reference_row(load_model(candidate), family=name))
                break
            except ConfigError as error:
                unknown.setdefault(name, str(error))
        else:
            continue
        unknown.pop(name, None)
    return tuple(rows), unknown


def _cell_table(cells: Iterable[CellOutcome]) -> str:
    rows = []
    for cell in cells:
        digits = 1 if cell.protocol == THROUGHPUT else 2
        figure = UNKNOWN if cell.value is None else f"{cell.value:.{digits}f} {cell.unit}"
        verdict = cell.verdict if cell.verdict and cell.status != Status.FAILED else cell.status
        mbu = percent(cell.mbu) + (" (implausible)" if cell.mbu is not None and cell.implausible else "")
        requests = UNKNOWN if cell.requests is None else str(cell.requests)
        ready = number(cell.ready_s, 1)
        rows.append((cell.cell, figure, verdict, mbu, requests, ready, cell.engine_version or UNKNOWN))
    header = ("Cell", "Figure", "Verdict", "MBU", "Requests", "Ready after, s", "Engine version")
    return markdown_table(header, rows, padded=True)


def _failures(cells: Iterable[CellOutcome]) -> Iterable[str]:
    """The failed cells grouped by reason; reasons against a measured figure are below the tables."""
    by_reason: dict[str, list[str]] = {}
    for cell in cells:
        if cell.status == Status.FAILED:
            by_reason.setdefault(cell.reason or "no reason is known", []).append(cell.cell)
    for reason, names in by_reason.items():
        first, *further = reason.splitlines() or [""]
        yield f"- {', '.join(names)}: failed: {escaped(first)}"
        yield from (f"      {escaped(line)}" for line in further)


def write_outcome(outcome: SuiteOutcome, folder: Path, faults: WriteFaults) -> None:
    """Write `suite.md` and `suite.json` into the suite's folder; what cannot be written is noted."""
    suite = RunFolder(folder)
    with faults.tolerated(folder / "suite.json", "its result as JSON"):
        suite.write("suite.json", to_json(outcome))
    with faults.tolerated(folder / "suite.md", "its tables as Markdown"):
        suite.write_whole("suite.md", to_markdown(outcome).encode())
