"""docs/trust.md, made of the findings: a table of all, then each fault with what the tools say."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.comparisons.trust.faults import CONTROL, FAULTS, REQUESTS, STEP_S, WORK, Fault
from benchmarks.comparisons.trust.judging import LIMIT, Figure
from benchmarks.comparisons.trust.results import Finding
from benchmarks.comparisons.trust.tools import TOOLS
from llmload.units import MS_PER_S, UNKNOWN, Markdown, code, escaped, markdown_table, milliseconds, significant

_UNITS: Final = {"output_tokens_per_s": "tokens/s"}
_NAMES: Final = {"output_tokens_per_s": "output tokens"}
KILLED: Final = "killed"

HEAD: Final = Path(__file__).with_name("head.md")


def trust_page(content: Mapping[str, Any]) -> str:
    """Return the page of the findings in docs/data/trust.json."""
    cells = {(each["fault"], each["tool"]): each for each in content["findings"]}
    findings = {key: Finding.from_json({k: v for k, v in cell.items() if k != "date"}) for key, cell in cells.items()}
    tools = [name for name in TOOLS if name in content["releases"]]
    parts = [
        _head(),
        "## The table\n",
        "Says so / figures / exit code. In bold: figures are wrong, and nothing says so.\n",
        _overview(findings, tools),
        _silent(findings, tools),
        _control(findings, tools),
        *(_fault(fault, findings, tools) for fault in FAULTS if any(fault.name == name for name, _ in findings)),
        _runs(content, findings, cells, tools),
    ]
    return "\n".join(parts)


def _head() -> str:
    return HEAD.read_text(encoding="utf-8").format(
        step_s=STEP_S,
        streams=WORK.streams,
        requests=REQUESTS,
        tokens=WORK.tokens,
        ttft_ms=WORK.ttft_s * MS_PER_S,
        gap_ms=MS_PER_S / WORK.tokens_per_s,
        limit=LIMIT,
    )


Findings = Mapping[tuple[str, str], Finding]


def _overview(findings: Findings, tools: Sequence[str]) -> str:
    rows = [
        [fault.title, *(_cell(findings.get((fault.name, tool))) for tool in tools)]
        for fault in FAULTS
        if any((fault.name, tool) in findings for tool in tools)
    ]
    return markdown_table(["fault", *(TOOLS[tool].title for tool in tools)], rows) + "\n"


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return "not run"
    if finding.why_not:
        return UNKNOWN
    text = f"{'yes' if finding.says_so else 'no'} / {_verdict(finding)} / {_code(finding)}"
    return Markdown(f"**{text}**") if finding.silent else text


def _verdict(finding: Finding) -> str:
    if not finding.figures:
        return "none"
    return f"{len(finding.wrong)} wrong" if finding.wrong else "right"


def _code(finding: Finding) -> str:
    return KILLED if finding.exit_code is None else str(finding.exit_code)


def _silent(findings: Findings, tools: Sequence[str]) -> str:
    rows = []
    for tool in tools:
        own = [finding for (fault, name), finding in findings.items() if name == tool and fault != CONTROL.name]
        tried = [finding for finding in own if finding.why_not is None]
        silent = sum(finding.silent for finding in tried)
        said, right = sum(each.says_so for each in tried), sum(not each.wrong for each in tried)
        rows.append([TOOLS[tool].title, str(len(tried)), str(said), str(right), str(silent)])
    head = ["tool", "faults injected", "said so", "no wrong figure", "wrong and not said"]
    return markdown_table(head, rows, right=range(1, 5)) + "\n"


def _control(findings: Findings, tools: Sequence[str]) -> str:
    own = [findings[CONTROL.name, tool] for tool in tools if (CONTROL.name, tool) in findings]
    rows = [[TOOLS[each.tool].title, _code(each), _wrong(each) or "none"] for each in own]
    text = "## Without a fault\n\nFigures that are not the log's here are not judged below.\n\n"
    return text + markdown_table(["tool", "exit code", "figures off, reported / true"], rows) + "\n"


def _fault(fault: Fault, findings: Findings, tools: Sequence[str]) -> str:
    rows = [
        _row(finding) for tool in tools if (finding := findings.get((fault.name, tool))) and finding.why_not is None
    ]
    left_out = [
        f"{TOOLS[tool].title}: {finding.why_not}"
        for tool in tools
        if (finding := findings.get((fault.name, tool))) and finding.why_not
    ]
    table = markdown_table(["tool", "exit code", "says", "wrong figures, reported / true"], rows) + "\n" if rows else ""
    note = f"Not applicable: {escaped('; '.join(left_out))}.\n" if left_out else ""
    return f"## {fault.title[0].upper()}{fault.title[1:]}\n\n" + "\n".join(part for part in (table, note) if part)


def _row(finding: Finding) -> list[str]:
    quote = finding.quote
    says = "nothing" if quote is None else Markdown(f"{code(quote.text)} ({escaped(quote.where)})")
    figures = "no figures" if not finding.figures else _wrong(finding) or "none"
    return [TOOLS[finding.tool].title, _code(finding), says, figures]


def _wrong(finding: Finding) -> str:
    return "; ".join(_figure(figure) for figure in finding.wrong)


def _figure(figure: Figure) -> str:
    if figure.name.endswith("_s") and figure.name not in _UNITS:
        name, quantile = figure.name.removesuffix("_s").split("_")
        return f"{name.upper()} {quantile} {_span(figure, milliseconds)} ms"
    name = _NAMES.get(figure.name, figure.name)
    return f"{name} {_span(figure, significant)} {_UNITS.get(figure.name, '')}".strip()


def _span(figure: Figure, text: Any) -> str:
    low, high = (text(min(figure.true)), text(max(figure.true))) if figure.true else (UNKNOWN, UNKNOWN)
    return f"{text(figure.reported)} / {low if low == high else f'{low} to {high}'}"


def _runs(
    content: Mapping[str, Any], findings: Findings, cells: Mapping[tuple[str, str], Any], tools: Sequence[str]
) -> str:
    rows = [
        [TOOLS[tool].title, content["releases"][tool], cells[CONTROL.name, tool]["date"]]
        for tool in tools
        if (CONTROL.name, tool) in cells
    ]
    lines = "\n\n".join(_commands(findings, tools))
    table = markdown_table(["tool", "version", "date"], rows)
    note = "The commands without a fault; only the longer warm-up adds an option to them:"
    return f"## Versions and commands\n\nOn a 2-core machine.\n\n{table}\n\n{note}\n\n{lines}\n"


def _commands(findings: Findings, tools: Sequence[str]) -> Iterator[str]:
    for tool in tools:
        if finding := findings.get((CONTROL.name, tool)):
            yield f"```text\n{finding.command}\n```"
