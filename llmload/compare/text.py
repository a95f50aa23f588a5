"""A comparison as text: for a terminal, a Markdown page and a CI system."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmload.compare.comparison import Comparison, Finding, Outcome
from llmload.compare.runs import FinishedRun
from llmload.report.checks import Check, Judgement
from llmload.units import UNKNOWN, bold, escaped, markdown_table, milliseconds, percent

STYLES: Final = {
    Outcome.PASS: "bold green",
    Outcome.FAIL: "bold red",
    Outcome.INCONCLUSIVE: "bold yellow",
    Outcome.UNJUDGED: "dim",
}
JUDGEMENTS: Final = {
    Outcome.PASS: Judgement.PASSED,
    Outcome.FAIL: Judgement.FAILED,
    Outcome.INCONCLUSIVE: Judgement.UNDECIDED,
    Outcome.UNJUDGED: Judgement.SKIPPED,
}
COLUMNS: Final = ("metric", "base", "candidate", "change", "interval", "accepted", "outcome")


def comparison_report(
    comparison: Comparison, base: Sequence[FinishedRun], candidate: Sequence[FinishedRun], notes: Sequence[str]
) -> RenderableType:
    """Return the runs, what differs, the table of metrics and the outcome."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if index in {0, len(COLUMNS) - 1} else "right", no_wrap=True)
    for finding in comparison.findings:
        cells = _cells(finding)
        table.add_row(*cells[:-1], Text(cells[-1], style=STYLES[finding.outcome]))
    lines = [Text(line) for line in (*_sides(base, candidate), *(f"note       {note}" for note in notes))]
    end = Text("\n")
    end.append(comparison.outcome.value, style=STYLES[comparison.outcome])
    end.append(f"  {conclusion(comparison)}")
    return Group(*lines, Text(), table, end, *(Text(line, style="dim") for line in _grounds(comparison)))


def comparison_markdown(
    comparison: Comparison, base: Sequence[FinishedRun], candidate: Sequence[FinishedRun], notes: Sequence[str]
) -> str:
    """Return the comparison as a Markdown page."""
    rows = []
    for finding in comparison.findings:
        *cells, outcome = _cells(finding)
        rows.append([*cells, bold(outcome) if finding.outcome in {Outcome.FAIL, Outcome.INCONCLUSIVE} else outcome])
    parts = [
        f"## llmload compare: {comparison.outcome.value}",
        conclusion(comparison),
        "\n".join(f"- {escaped(line)}" for line in _sides(base, candidate)),
        markdown_table(COLUMNS, rows, right=range(1, len(COLUMNS) - 1)),
        "\n".join(f"- {escaped(line)}" for line in (*notes, *_grounds(comparison))),
    ]
    return "\n\n".join(parts) + "\n"


def comparison_checks(comparison: Comparison) -> list[Check]:
    """Return a check for each metric."""
    return [
        Check(name=finding.metric.name, judgement=JUDGEMENTS[finding.outcome], text=sentence(finding))
        for finding in comparison.findings
    ]


def sentence(finding: Finding) -> str:
    """Return a finding as a sentence."""
    _, base, candidate, change, interval, accepted, outcome = _cells(finding)
    if finding.change is None:
        return f"{finding.metric.label}: {base} against {candidate}, {outcome}"
    return (
        f"{finding.metric.label}: {base} to {candidate}, {change} (between {interval}), accepted {accepted}: {outcome}"
    )


def conclusion(comparison: Comparison) -> str:
    """Return the outcome with its reason."""
    named = {
        outcome: ", ".join(f.metric.label for f in comparison.findings if f.outcome is outcome) for outcome in Outcome
    }
    match comparison.outcome:
        case Outcome.FAIL:
            return f"worse than accepted: {named[Outcome.FAIL]}"
        case Outcome.INCONCLUSIVE:
            return f"longer or more runs are needed for: {named[Outcome.INCONCLUSIVE]}"
        case Outcome.PASS:
            return "nothing that was judged is worse than accepted"
        case _:
            return "nothing could be judged"


def _cells(finding: Finding) -> list[str]:
    metric = finding.metric
    sign, unit = "-" if metric.higher_is_better else "+", "pp" if metric.is_share else "%"
    in_ms = metric.statistic is not None and not metric.higher_is_better
    return [
        metric.label + (", ms" if in_ms else ""),
        _figure(finding, finding.base),
        _figure(finding, finding.candidate),
        _percent(finding, finding.change),
        UNKNOWN if finding.low is None else f"{_percent(finding, finding.low)} to {_percent(finding, finding.high)}",
        f"{sign}{finding.threshold * 100:g} {unit}",
        finding.outcome.value + (f" ({finding.note})" if finding.note else ""),
    ]


def _figure(finding: Finding, value: float | None) -> str:
    metric = finding.metric
    if metric.is_share:
        return percent(value, 2)
    if value is None:
        return UNKNOWN
    return f"{value:,.4g}" if metric.higher_is_better else milliseconds(value)


def _percent(finding: Finding, change: float | None) -> str:
    if change is None:
        return UNKNOWN
    return f"{change * 100:+.2f} pp" if finding.metric.is_share else f"{change * 100:+.1f} %"


def _sides(base: Sequence[FinishedRun], candidate: Sequence[FinishedRun]) -> Iterator[str]:
    for title, side in (("base", base), ("candidate", candidate)):
        names = ", ".join(run.name for run in side)
        yield f"{title:9}  {side[0].summary.model} on {side[0].engine}: {names}"


def _grounds(comparison: Comparison) -> Iterator[str]:
    counts = " against ".join(
        "+".join(map(str, requests)) for requests in (comparison.base_requests, comparison.candidate_requests)
    )
    pairing = "paired by prompt" if comparison.paired else "not paired: the prompts differ"
    yield f"{counts} requests, {pairing}, in {comparison.blocks} blocks of {comparison.block_requests}"
    yield "interval: the better end covers all metrics together with 95 %, the worse end each metric with 95 %"
    if not comparison.sees_runs:
        yield "one run per side: the intervals do not include the difference between runs (llmload run --repeat 3)"
