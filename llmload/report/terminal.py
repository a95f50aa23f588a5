"""What a run shows at its end: verdict, figures and gates on a terminal, JUnit for CI, the spread of repeated runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmload.capacity.result import capacity_report, capacity_text
from llmload.errors import ExitCode, RunFolderError
from llmload.metrics.doubts import lines_of, marked, marks
from llmload.metrics.objective import LABELS, METRICS, Metric
from llmload.metrics.validity import Level
from llmload.report.network import network_rows
from llmload.runs.build_summary import cost_rows
from llmload.runs.summary import Summary
from llmload.runs.summary_parts import EngineMetrics, GpuMetrics
from llmload.runs.writing import UNWRITTEN_FILES
from llmload.stats.intervals import Spread
from llmload.units import GB, MS_PER_S, UNKNOWN, amount, markdown_table, milliseconds, number, percent

# The checks of a run: its measurement, requests, capacity search and gates; what fails a pipeline; JUnit XML.


class Judgement(StrEnum):
    """The outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"  # an error in JUnit: someone has to look
    SKIPPED = "skipped"


GATE_JUDGEMENTS: Final = {True: Judgement.PASSED, False: Judgement.FAILED, None: Judgement.SKIPPED}
"""By whether the gate was passed; None: the run was cut, so it was not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check's name, its outcome, and a line with the reason."""

    name: str
    judgement: Judgement
    text: str


def write_junit(file: Path, suites: Iterable[tuple[str, Iterable[Check]]]) -> None:
    """Write checks as JUnit XML, a test suite per named group; RunFolderError if the file cannot be written."""
    document = JUnitXml("llmload")
    for name, checks in suites:
        suite = TestSuite(name)
        suite.add_testcases([_case(name, check) for check in checks])
        document.add_testsuite(suite)
    try:
        document.write(str(file), pretty=True)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def _case(suite: str, check: Check) -> TestCase:
    case = TestCase(check.name, f"llmload.{suite}", 0.0)
    kinds = {Judgement.FAILED: Failure, Judgement.UNDECIDED: Error, Judgement.SKIPPED: Skipped}
    kind = kinds.get(check.judgement)
    if kind is None:
        case.system_out = check.text
    else:
        case.result = [kind(check.text, check.judgement.value)]
    return case


def failed(summary: Summary) -> bool:
    """
    Return whether a run fails a pipeline: a gate failed, requests were cut, or failed and no gate limits `error_share`.

    A capacity search fails if it found none; requests that fail or are cut beyond the capacity are expected.
    """
    return _failed_requests(summary) or _fell_short(summary)


def exit_code_of(summary: Summary, on_error: int = ExitCode.FAILED) -> int:
    """
    Return 0 for a good run, 3 for an INVALID one, 1 where a gate failed, requests were cut, or a file lacks something.

    Where nothing but requests failed, those of other users too, it is `on_error`: Locust's `--exit-code-on-error`.
    """
    if summary.verdict.level is Level.INVALID:
        return ExitCode.INVALID
    unwritten = any(reason.check == UNWRITTEN_FILES for reason in summary.verdict.reasons)
    if unwritten or _fell_short(summary):
        return ExitCode.FAILED
    others_failed = summary.other_users is not None and not summary.other_users.all_good
    return on_error if others_failed or _failed_requests(summary) else ExitCode.GOOD


def _fell_short(summary: Summary) -> bool:
    """Whether a run did less than it was to: a gate failed, requests were cut, or a search found nothing."""
    missed = any(gate.passed is False for gate in summary.gates)
    return missed or _cut_requests(summary) or _found_nothing(summary)


def _failed_requests(summary: Summary) -> bool:
    gated = any(gate.objective.split()[0] == "error_share" for gate in summary.gates)
    return bool(summary.requests.failed) and not gated and summary.capacity is None


def _cut_requests(summary: Summary) -> bool:
    return bool(summary.requests.censored) and summary.capacity is None


def _found_nothing(summary: Summary) -> bool:
    return summary.capacity is not None and summary.capacity.passes is None


def _capacity_checks(summary: Summary) -> list[Check]:
    if summary.capacity is None:
        return []
    judgement = Judgement.FAILED if _found_nothing(summary) else Judgement.PASSED
    return [Check(name="capacity", judgement=judgement, text=capacity_text(summary.capacity))]


def run_checks(summary: Summary) -> list[Check]:
    """Return a run's checks: its measurement, its requests, its capacity search and its gates."""
    verdict, requests = summary.verdict, summary.requests
    invalid = verdict.level is Level.INVALID
    reasons = "; ".join(f"{reason.level}: {reason.text}" for reason in verdict.reasons)
    counts = f"{requests.failed} of {requests.started} failed"
    errors = ", ".join(f"{name} {count}" for name, count in requests.errors.items())
    said = [f"{counts}: {errors}" if errors else counts, *(each.text for each in requests.failures)]
    return [
        Check(
            name="measurement",
            judgement=Judgement.UNDECIDED if invalid else Judgement.PASSED,
            text="; ".join([reasons or str(verdict.level), *doubt_lines(summary)]),
        ),
        Check(
            name="requests",
            judgement=Judgement.FAILED if _failed_requests(summary) or _cut_requests(summary) else Judgement.PASSED,
            text="; ".join(said),
        ),
        *_capacity_checks(summary),
        *(
            Check(
                name=gate.objective,
                judgement=GATE_JUDGEMENTS[gate.passed],
                text=gate.text,
            )
            for gate in summary.gates
        ),
    ]


# The spread of each figure over repeated runs, for terminal, JSON and Markdown.

REPEAT: Final = "repeat.json"
SPREAD_COLUMNS: Final = ("figure", "median", "min", "max", "mean of runs (95 %)")


def spread_of(summaries: Sequence[Summary]) -> dict[str, Spread]:
    """Return the spread of each figure that every run measured, by the metric's name."""
    spreads = {}
    for metric in METRICS:
        values = [summary.value(metric.figure, metric.statistic) for summary in summaries]
        known = [value for value in values if value is not None]
        if known and len(known) == len(summaries):
            spreads[metric.name] = Spread.of(known)
    return spreads


def repeated(asked: int, names: Sequence[str], summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return the content of `repeat.json`: the number of runs requested, the names of those done, and their spread."""
    return {
        "asked": asked,
        "runs": list(names),
        "spread": {name: spread.to_dict() for name, spread in spread_of(summaries).items()},
    }


def repeat_report(asked: int, summaries: Sequence[Summary]) -> RenderableType:
    """Return the table of spreads."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(SPREAD_COLUMNS):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in _spread_rows(summaries):
        table.add_row(*row)
    return Group(Text(f"\n{_spread_title(asked, summaries)}", style="bold"), table)


def repeat_markdown(asked: int, summaries: Sequence[Summary]) -> str:
    """Return the table of spreads as Markdown."""
    table = markdown_table(SPREAD_COLUMNS, _spread_rows(summaries), right=range(1, len(SPREAD_COLUMNS)))
    return f"## {_spread_title(asked, summaries)}\n\n{table}\n"


def _spread_title(asked: int, summaries: Sequence[Summary]) -> str:
    done = len(summaries)
    return f"{done} runs of the same prompts" if done == asked else f"{done} of {asked} runs, then stopped"


def _spread_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    spreads = spread_of(summaries)
    return [_spread_row(metric, spreads[metric.name]) for metric in METRICS if metric.name in spreads]


def _spread_row(metric: Metric, spread: Spread) -> list[str]:
    in_ms = metric.statistic is not None and not metric.higher_is_better

    def shown(value: float) -> str:
        return percent(value, 2) if metric.is_share else milliseconds(value) if in_ms else f"{value:,.4g}"

    mean = UNKNOWN if spread.low is None or spread.high is None else f"{shown(spread.low)} to {shown(spread.high)}"
    return [
        metric.label + (", ms" if in_ms else ""),
        *(shown(value) for value in (spread.median, spread.least, spread.most)),
        mean,
    ]


PLAIN_WIDTH: Final = 120
LATENCIES: Final = {LABELS[key]: key for key in ("ttft_s", "itl_s", "tpot_s", "e2e_s")}
COLUMNS: Final = ("mean", "p50", "p90", "p95", "p99", "max")
STYLES: Final = {"VALID": "bold green", "DEGRADED": "bold yellow", "INVALID": "bold red"}


def console(*, record: bool = False) -> Console:
    """Return a console as wide as the terminal, or wide enough for the tables if there is no terminal."""
    plain = Console(highlight=False, markup=False, emoji=False, record=record)  # names are data, whatever is in them
    if not plain.is_terminal:
        plain.width = PLAIN_WIDTH
    return plain


def run_report(summary: Summary) -> RenderableType:
    """Return the verdict, the figures and the latencies of a run."""
    found = (
        []
        if summary.capacity is None
        else capacity_report(summary.capacity, {stage.name: stage.doubts for stage in summary.stages})
    )
    parts = (_title(summary), _figures(summary), _latencies(summary), *found, *sampled_tables(summary))
    return Group(*parts, *_verdict(summary), *_gates(summary), *_failures(summary))


SHOWN: Final = ("request_output_tokens_per_s mean", "requests_per_min", "output_tokens_per_s", *LATENCIES.values())
"""The figures of which the tables of a run's end have statistics."""


def figure_text(summary: Summary, key: str, statistic: str | None, text: Callable[[float | None], str]) -> str:
    """Return a figure's text, marked where it is in doubt."""
    return marked(text(summary.value(key, statistic)), summary.verdict.doubts, key, statistic)


def tenths(value: float | None) -> str:
    """Return a number with one decimal."""
    return number(value, 1)


def doubt_lines(summary: Summary) -> list[str]:
    """Return a line for each check that doubts a figure of the tables, with the mark that these have."""
    return lines_of(summary.verdict, SHOWN)


def _title(summary: Summary) -> Text:
    text = Text(f"\n{summary.scenario}", style="bold")
    text.append(f"  {summary.model} on {summary.engine}", style="default")
    if summary.simulated:
        text.append("  simulated engine: no real engine was measured", style="bold magenta")
    return text


def _figures(summary: Summary) -> Table:
    requests = summary.requests
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    speed = figure_text(summary, "request_output_tokens_per_s", "mean", number)
    table.add_row("output tokens/s of a request (mean)", speed)
    if bandwidth := summary.bandwidth:
        used = f"{percent(bandwidth.mbu)} of the {number(bandwidth.bound_tokens_per_s)} tok/s that it allows"
        table.add_row("memory bandwidth", f"{used}{'; implausible' if bandwidth.implausible else ''}")
    table.add_row("requests/min", figure_text(summary, "requests_per_min", None, tenths))
    table.add_row("system output tokens/s", figure_text(summary, "output_tokens_per_s", None, tenths))
    counts = f"{requests.started} started = {requests.completed} completed + {requests.failed} failed"
    table.add_row("requests", f"{counts} + {requests.censored} censored")
    if requests.errors:
        table.add_row("errors", ", ".join(f"{name} {count}" for name, count in requests.errors.items()))
    if summary.other_users is not None:
        table.add_row("other users", summary.other_users.summed_up)
    tokens = number(summary.output_tokens, 0)
    table.add_row("output tokens", f"{tokens}, counted by {summary.token_source or UNKNOWN}")
    if summary.finish_reasons:
        reasons = ", ".join(f"{name} {count}" for name, count in summary.finish_reasons.items())
        table.add_row("finish reasons", reasons)
    for title, text in (*prefix_cache_rows(summary), *cost_rows(summary.cost), *network_rows(summary)):
        table.add_row(title, text)
    table.add_row("window", f"{number(summary.window_s, 1)} s, {summary.load.text}")
    if edited := summary.edited:
        table.add_row("load", edited.text)
    return table


SALTED: Final = {
    "request": "salted, so that the prefix cache has none of them: one salt per request",
    "run": "salted, so that the prefix cache has none of them: one salt per run",
    "repeats": "salted where they are sent again, so that the prefix cache does not have them",
}


def prefix_cache_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return title and text of what is known of cached prompt tokens, by the engine's answers and by its metrics."""
    rows = []
    if salt := summary.prompt_salt:
        rows.append(("prompts", SALTED[salt]))
    reported = summary.cached_token_share
    own = None if summary.engine_metrics is None else summary.engine_metrics.prefix_cache_hit_share
    if reported is not None or own is not None:
        rows.append(
            (
                "prefix cache",
                f"{percent(reported)} of prompt tokens by the answers, {percent(own)} by the engine's metrics",
            )
        )
    return rows


def _latencies(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("latency, ms")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, key in LATENCIES.items():
        table.add_row(name, *(figure_text(summary, key, column, milliseconds) for column in COLUMNS))
    return table


def _verdict(summary: Summary) -> list[Text]:
    verdict = summary.verdict
    head = Text("verdict ", style="default")
    head.append(verdict.level, style=STYLES[verdict.level])
    stamps = {
        "packet": "time stamps by the kernel's packet ring",
        "kernel": "time stamps by the kernel",
        "user": "time stamps by the process",
        "mixed": "time stamps by several sources: see docs/stamps.md",
    }
    head.append(f"  {stamps.get(summary.stamp_source or '', '')}", style="dim")
    reasons = [Text(f"  {marks(reason)}{reason.level}: {reason.text}") for reason in verdict.reasons]
    return [head, *reasons, *(Text(f"  {line}", style="dim") for line in doubt_lines(summary))]


FAILURE_COLUMNS: Final = ("failed requests", "count", "share", "in the engine's or system's words")


def _failures(summary: Summary) -> list[Table]:
    """Return a table of the most frequent failures; none where no request failed."""
    if not summary.requests.failures:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(FAILURE_COLUMNS):
        table.add_column(column, justify="right" if index in (1, 2) else "left", overflow="fold")
    for each in summary.requests.failures:
        table.add_row(*map(Text, each.cells))
    return [table]


_GATE_STYLES: Final = {True: ("passed", "bold green"), False: ("FAILED", "bold red"), None: ("skipped", "yellow")}


def _gates(summary: Summary) -> list[Text]:
    """A line for each gate; a red one sets the exit code 1."""
    return [Text.assemble("gate ", _GATE_STYLES[gate.passed], f"  {gate.text}") for gate in summary.gates]


# The engine's and the GPUs' own metrics


def sampled_tables(summary: Summary) -> Iterator[RenderableType]:
    """Yield a table for the engine and one for the GPUs, if the run has read their metrics."""
    if engine := summary.engine_metrics:
        yield _engine(engine)
    if gpus := summary.gpu_metrics:
        yield _gpus(gpus)


def _engine(engine: EngineMetrics) -> Table:
    table = _table("engine's metrics, whole run")
    if not engine.samples:
        table.add_row("", f"none: {_failed(engine)}, as for an engine that serves no metrics")
        return table
    for name, own, client, gap in (
        ("TTFT", engine.ttft_mean_s, engine.client_ttft_mean_s, engine.ttft_gap_s),
        ("ITL", engine.itl_mean_s, engine.client_itl_mean_s, engine.itl_gap_s),
    ):
        table.add_row(f"{name}, mean", f"{_ms(own)}, client's {_ms(client)}, gap {_ms(gap)}")
    table.add_row("running, waiting", f"{amount(engine.running_max)}, {amount(engine.waiting_max)} at most")
    table.add_row("KV cache in use", f"{percent(engine.kv_cache_usage_max)} at most")
    table.add_row("preemptions", amount(engine.preemptions))
    table.add_row("prefix cache hits", percent(engine.prefix_cache_hit_share))
    counted = f"{amount(engine.output_tokens)}, client's {amount(engine.client_output_tokens)}"
    table.add_row("output tokens", f"{counted}, gap {amount(engine.output_tokens_gap)}")
    table.add_row("read", f"{engine.samples:,} times, {_failed(engine)}")
    return table


def _gpus(gpus: GpuMetrics) -> Table:
    table = _table("GPUs' metrics, whole run")
    if not gpus.samples:
        table.add_row("", f"none: {_failed(gpus)}")
        return table
    table.add_row("GPUs", amount(gpus.gpus))
    used, needed = amount(gpus.memory_used_max_gib, " GiB"), gpus.memory_estimate_gib
    filled = amount(gpus.memory_estimate_with_kv_cache_gib, " GiB")
    sized = "" if needed is None else f"; sizing expects {amount(needed, ' GiB')}, and {filled} with the KV cache"
    table.add_row("memory in use", f"{used} at most{sized}")
    table.add_row("power", f"{amount(gpus.power_max_w, ' W')} at most")
    energy = amount(gpus.energy_j_per_output_token, " J")
    table.add_row("energy", f"{amount(gpus.energy_j, ' J')}, {energy} an output token")
    table.add_row("tensor cores active", f"{percent(gpus.tensor_active_max)} at most")
    for name, most, whole in (
        ("NVLink, sent", gpus.nvlink_tx_max_bytes_per_s, gpus.nvlink_tx_bytes),
        ("NVLink, received", gpus.nvlink_rx_max_bytes_per_s, gpus.nvlink_rx_bytes),
    ):
        table.add_row(name, f"{_gigabytes(most)}/s at most, {_gigabytes(whole)} in all")
    table.add_row("read", f"{gpus.samples:,} times, {_failed(gpus)}")
    return table


def _table(name: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column(name, min_width=35)
    table.add_column("")
    return table


def _failed(figures: EngineMetrics | GpuMetrics) -> str:
    return f"{figures.failed_reads:,} reads failed"


def _ms(value_s: float | None) -> str:
    return number(None if value_s is None else value_s * MS_PER_S, 2, " ms")


def _gigabytes(value: float | None) -> str:
    return number(None if value is None else value / GB, 2, " GB")
