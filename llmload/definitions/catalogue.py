"""Figures by a tool's definitions on a terminal, laid out as the tool does, so that two tables can be compared."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmload.definitions.per_request import aiperf, genai_bench, guidellm
from llmload.definitions.sample import Figure, Sample, Section
from llmload.definitions.serving import sglang, vllm
from llmload.units import UNKNOWN, number

# The tools by name, each with the release its definitions were read from and how they differ from llmload's.


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinitions:
    """A tool's definitions: computed by `sections`, read in `source`, explained in `rules`."""

    tool: str
    release: str
    source: str
    rules: tuple[str, ...]
    sections: Callable[[Sample], list[Section]]
    layout: Literal["lines", "matrix", "columns"]


TOOL_DEFINITIONS: Final = {
    "vllm": ToolDefinitions(
        tool="vllm bench serve",
        release="vLLM 0.32.0",
        source="vllm/benchmarks/serve.py: calculate_metrics; lib/endpoint_request_func.py: "
        "async_request_openai_chat_completions",
        rules=(
            "TTFT ends at the first chunk with choices, be it an empty role; latency at the last, be it the finish",
            "ITL: every gap between chunks with choices, including those to the role and to the finish (near 0)",
            "TPOT = (latency - TTFT) / (output tokens - 1); percentiles interpolate linearly",
            "throughputs: over the first request's start to the last answer's end; peaks count chunks in whole seconds",
        ),
        sections=vllm,
        layout="lines",
    ),
    "sglang": ToolDefinitions(
        tool="sglang.benchmark.serving and sglang-bench",
        release="SGLang 0.5.23",
        source="sglang/benchmark/serving.py: calculate_metrics, async_request_openai_chat_completions",
        rules=(
            "TTFT ends at the first text; latency at the stream's last line",
            "ITL: every gap between chunks with text; TPOT = (latency - TTFT) / (output tokens - 1)",
            "percentiles interpolate linearly; throughputs: over the first request's start to the last answer's end",
            "input tokens are its own tokenizer's, without the chat template: here they are the engine's",
        ),
        sections=sglang,
        layout="lines",
    ),
    "aiperf": ToolDefinitions(
        tool="aiperf profile",
        release="AIPerf 0.13.0",
        source="aiperf/metrics/types/*.py; metrics/metric_dicts.py: metric_result_from_array",
        rules=(
            "TTFT ends at the first text, request latency at the last text: not at the end of the answer",
            "Inter Token Latency: (request latency - TTFT) / (output tokens - 1) of a request, which others call TPOT",
            "Output Token Throughput Per User = 1 / Inter Token Latency of each request",
            "percentiles interpolate linearly; throughputs: over the first start to the last text",
            "tokens are its own tokenizer's unless --use-server-token-count: here they are the engine's",
        ),
        sections=aiperf,
        layout="matrix",
    ),
    "guidellm": ToolDefinitions(
        tool="guidellm run",
        release="GuideLLM 0.8.1",
        source="guidellm/schemas/base/request_stats.py, statistics.py; benchmark/schemas/metrics.py: GenerativeMetrics",
        rules=(
            "the start is the first byte written: opening a connection does not count",
            "ITL = (last - first text) / (output tokens - 1) of a request, weighted by output tokens - 1",
            "TPOT = (last text - start) / output tokens: the first token is included; weighted by output tokens",
            "percentiles are by nearest rank; rates: over the first start to the last end, failures count as requests",
        ),
        sections=guidellm,
        layout="columns",
    ),
    "genai-bench": ToolDefinitions(
        tool="genai-bench benchmark",
        release="genai-bench 0.0.5",
        source="genai_bench/metrics/request_metrics_collector.py, aggregated_metrics_collector.py; user/openai_user.py",
        rules=(
            "TTFT ends at the first text, e2e latency with the usage chunk; TPOT = (e2e - TTFT) / (output tokens - 1)",
            "output_throughput of a request = (output tokens - 1) / (e2e - TTFT); input_throughput = input / TTFT",
            "an answer shorter than 1 ms after its first text has no TPOT; percentiles interpolate linearly",
            "its run_duration ends when its loop next looks, here with the last answer; its error_rate is always 0",
        ),
        sections=genai_bench,
        layout="matrix",
    ),
}


WIDTH: Final = 50
LABEL_WIDTH: Final = 40


def definitions_report(run_id: str, sample: Sample, definitions: ToolDefinitions) -> RenderableType:
    """Return the run by a tool's definitions: its tables, the definitions, their source, and notes on this run."""
    title = Text(f"\n{run_id}", style="bold")
    title.append(f"  by the definitions of {definitions.tool} ({definitions.release})", style="default")
    sections = definitions.sections(sample)
    if definitions.layout == "lines":
        tables: list[RenderableType] = [Text("\n".join(serving_lines(sections)))]
    else:
        tables = [_matrix(each) if definitions.layout == "matrix" else _columns(each) for each in sections]
    explained = [f"  {line}" for line in (*definitions.rules, f"read in {definitions.source}")]
    notes = [Text(f"  note: {note}", style="yellow") for note in sample.notes]
    return Group(title, *tables, Text("\n".join(explained), style="dim"), *notes)


def definitions_json(run_id: str, sample: Sample, definitions: ToolDefinitions) -> dict[str, Any]:
    """Return the figures under the keys of the tool's export; unknown is None."""
    figures = [figure for section in definitions.sections(sample) for figure in section.figures]
    return {
        "run_id": run_id,
        "tool": definitions.tool,
        "release": definitions.release,
        "source": definitions.source,
        "figures": {figure.key: figure.value for figure in figures if figure.key},
        "notes": list(sample.notes),
    }


def serving_lines(sections: list[Section]) -> Iterator[str]:
    """Yield the lines that `vllm bench serve` and `sglang.benchmark.serving` print."""
    for index, section in enumerate(sections):
        yield f"{f' {section.title} ' if not index else section.title:{'-' if index else '='}^{WIDTH}}"
        for figure in section.figures:
            yield f"{figure.row:<{LABEL_WIDTH}} {_text(figure, grouped=False):<10}"
    yield "=" * WIDTH


def _matrix(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD)
    columns = list(dict.fromkeys(figure.column for figure in section.figures))
    table.add_column("Metric", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column or "value", justify="right")
    rows: dict[str, dict[str, str]] = {}
    for figure in section.figures:
        rows.setdefault(figure.row, {})[figure.column] = _text(figure)
    for row, cells in rows.items():
        table.add_row(row, *(cells.get(column, "N/A") for column in columns))
    return table


def _columns(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for figure in section.figures:
        table.add_column(figure.row, justify="right")
    table.add_row(*(_text(figure) for figure in section.figures))
    return table


def _text(figure: Figure, *, grouped: bool = True) -> str:
    if figure.value is None:
        return UNKNOWN
    return number(figure.value, figure.digits) if grouped else f"{figure.value:.{figure.digits}f}"
