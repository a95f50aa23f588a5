"""`python -m benchmarks.comparisons.trust`: what load generators say and report when something goes wrong."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import ROOT
from benchmarks.comparisons.trust.faults import CONTROL, FAULTS, Fault, Means
from benchmarks.comparisons.trust.page import trust_page
from benchmarks.comparisons.trust.results import Finding, find
from benchmarks.comparisons.trust.running import TrustRun, run_tool
from benchmarks.comparisons.trust.tools import TOOLS, Tool
from benchmarks.tools.bench_run import Cores
from benchmarks.tools.pinned import adopt_orphans
from llmload.errors import ExitCode

DATA: Final = ROOT / "docs" / "data" / "trust.json"
PAGE: Final = ROOT / "docs" / "trust.md"
ATTEMPTS: Final = 2
"""A run whose figures are wrong is done again, and the best one counts: a busy machine is not a tool's fault."""


def chosen(only: str | None, known: Sequence[str], option: str) -> list[str]:
    """Return the named ones, or all; UsageError for a name that is not known."""
    names = only.split(",") if only else list(known)
    for name in names:
        if name not in known:
            raise click.UsageError(f"{option}: {name}: known are {', '.join(known)}")
    return names


def why_not(tool: Tool, fault: Fault, *, may_step_clock: bool) -> str | None:
    """Return why this fault cannot be injected for this tool; None where it can."""
    if fault.means is Means.WARM_UP and tool.warm_up is None:
        return tool.no_warm_up
    if fault.means is Means.CLOCK and not may_step_clock:
        return "the machine's clock was left alone (--step-clock sets it)"
    if fault.means is Means.REFUSE and os.geteuid() != 0:
        return "that a connection was refused is seen by root only"
    return None


def judge(tool: Tool, fault: Fault, cores: Cores, folder: Path, control: TrustRun | None) -> tuple[Finding, TrustRun]:
    """Run the tool with the fault, again where its figures are wrong, and return the best finding and its run."""
    found: list[tuple[Finding, TrustRun]] = []
    for attempt in range(ATTEMPTS):
        number = FAULTS.index(fault) + 1 if fault in FAULTS else 0  # its name, in a path, would name the fault
        run = run_tool(tool, fault, cores, folder / f"{tool.client.name}-{number}-{attempt}")
        found.append((find(tool, fault, run, control), run))
        if not found[-1][0].wrong:
            break
    return min(found, key=lambda pair: len(pair[0].wrong))


def progress(finding: Finding) -> str:
    """Return a line of progress."""
    if finding.why_not:
        return f"n/a: {finding.why_not}"
    wrong = ", ".join(f"{figure.name} {figure.reported:.4g}/{figure.true}" for figure in finding.wrong)
    said = "nothing" if finding.quote is None else f"{finding.quote.where}: {finding.quote.text}"
    return f"exit code {finding.exit_code}; says {said}; wrong: {wrong or 'nothing'}"


def merged(content: dict[str, Any], findings: Iterable[Finding], releases: dict[str, str]) -> dict[str, Any]:
    """Return the content with these findings in the place of older ones of the same tool and fault."""
    cells = {(each["tool"], each["fault"]): each for each in content.get("findings", [])}
    today = datetime.now(UTC).date().isoformat()
    cells |= {(each.tool, each.fault): {**each.as_json(), "date": today} for each in findings}
    order = {name: number for number, name in enumerate(TOOLS)}
    rows = {fault.name: number for number, fault in enumerate((CONTROL, *FAULTS))}
    listed = sorted(cells.values(), key=lambda each: (order[each["tool"]], rows[each["fault"]]))
    return {"releases": {**content.get("releases", {}), **releases}, "findings": listed}


@click.command()
@click.option("--only", metavar="NAMES", help=f"Tools, with commas between: {', '.join(TOOLS)}; those installed.")
@click.option("--faults", metavar="NAMES", help=f"Faults: {', '.join(fault.name for fault in FAULTS)}; all.")
@click.option("--step-clock", is_flag=True, help="Set this machine's clock forward 5 s during the runs of that fault.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Add the findings to it.")
@click.option("--write-page", is_flag=True, help=f"Only write {PAGE.relative_to(ROOT)} from its data.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder to work in; its files stay.")
def main(
    only: str | None,
    faults: str | None,
    json_file: Path | None,
    keep: Path | None,
    *,
    step_clock: bool,
    write_page: bool,
) -> None:
    """Inject faults into runs of each load generator, and compare what it says and reports with the engine's log."""
    if write_page:
        PAGE.write_text(trust_page(json.loads(DATA.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    installed = [name for name, tool in TOOLS.items() if tool.client.missing() is None]
    names = chosen(only, list(TOOLS), "--only") if only else installed
    rows = chosen(faults, [fault.name for fault in FAULTS], "--faults")
    for name in names:
        if missing := TOOLS[name].client.missing():
            raise click.UsageError(f"--only: {name}: {missing}")
    cores = Cores.of_this_machine()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.INTERRUPTED))  # the clock is set back on the way out
    adopt_orphans()
    os.sched_setaffinity(0, {cores.engine})
    with tempfile.TemporaryDirectory(prefix="llmload-trust-") as temporary:
        folder = (keep or Path(temporary)).absolute()
        for name in names:
            findings = findings_of(TOOLS[name], rows, cores, folder, may_step_clock=step_clock)
            if json_file:
                content = json.loads(json_file.read_text(encoding="utf-8")) if json_file.is_file() else {}
                text = json.dumps(merged(content, findings, {name: TOOLS[name].release}), indent=1)
                json_file.write_text(text + "\n", encoding="utf-8")


def findings_of(tool: Tool, rows: Sequence[str], cores: Cores, folder: Path, *, may_step_clock: bool) -> list[Finding]:
    """Run one tool without a fault and with each fault, and return what was found."""
    finding, control = judge(tool, CONTROL, cores, folder, None)
    click.echo(f"{tool.title}, no fault: {progress(finding)}", err=True)
    findings = [finding]
    for fault in (fault for fault in FAULTS if fault.name in rows):
        if reason := why_not(tool, fault, may_step_clock=may_step_clock):
            finding = Finding(tool=tool.client.name, fault=fault.name, why_not=reason)
        else:
            finding, _ = judge(tool, fault, cores, folder, control)
        findings.append(finding)
        click.echo(f"{tool.title}, {fault.title}: {progress(finding)}", err=True)
    return findings


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparisons.trust")
