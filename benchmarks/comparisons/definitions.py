"""`python -m benchmarks.comparisons.definitions`: what five tools print, beside `llmload report --definitions`."""

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from benchmarks.comparisons.client_cost.other_tools import Aiperf, GenaiBench, Guidellm
from benchmarks.comparisons.client_cost.sglang_bench import SglangBench
from benchmarks.comparisons.client_cost.vllm_bench import VllmBench
from benchmarks.tools.bench_run import MEASURED_CODES
from benchmarks.tools.llmload_client import Llmload, run_folder
from benchmarks.tools.load_client import Command, LoadClient, Task
from benchmarks.tools.paced_engine import TEXTS_S, PacedEngine
from benchmarks.tools.pinned import OUTPUT, last_lines
from benchmarks.tools.truth_engine.engine import TruthEngine
from benchmarks.tools.work import Work
from llmload.definitions.catalogue import TOOL_DEFINITIONS, definitions_json
from llmload.definitions.sample import read_sample
from llmload.runs.folder import RunFolder

WORK: Final = Work(streams=2, tokens_per_s=2, tokens=5, ttft_s=1.5, ttft_spread_s=0.4)
"""Slow enough that a tool's own delay of some milliseconds is little; the engine's spread is the same in every run."""
PACED_WORK: Final = Work(streams=1, tokens_per_s=2, tokens=len(TEXTS_S), ttft_s=TEXTS_S[0])
REQUESTS: Final = {False: 12, True: 6}
"""On the engine with known times, and on the paced one."""
LIMIT: Final = {False: 0.02, True: 0.10}
"""The paced engine shows at which chunk a clock stops; one chunk further is 13 % or more."""
ENOUGH: Final = 4
"""How many tools must agree in every figure."""
TIMEOUT_S: Final = 600.0
LATE_S: Final = {False: 0.008, True: 0.030}
"""Above this, lateness is not small beside a gap of 500 ms; on the paced engine, beside the 300 ms to the role."""
ATTEMPTS: Final = 5

_PROMPTS: Final = "each tool makes its own prompts, and the engine counts what it gets"
_SECONDS: Final = "counts in whole seconds, which a millisecond may move"
_OVERRUN: Final = "its clock runs on until its loop next looks"
NOT_COMPARED: Final = {
    r"input|prompt|^total_token|^total_throughput|^tokens_per_second|stats\.total_tokens|mean_total_tokens": _PROMPTS,
    r"^max_(output_tokens_per_s|concurrent_requests)$": _SECONDS,
}
NOT_COMPARED_OF: Final = {
    "genai-bench": {r"^(run_duration|requests_per_second|mean_output_throughput_tokens_per_s)$": _OVERRUN}
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A load generator, and how to read the figures of its export."""

    client: LoadClient
    export: Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure as the tool printed it and as its definitions give it; `why_not` says why the two are not compared."""

    key: str
    reported: float | None
    computed: float | None
    difference: float | None
    """Relative to the tool's figure; that of a standard deviation is relative to the mean."""
    limit: float
    why_not: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return self.difference is not None and self.difference <= self.limit


def _json(*names: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        content: Any = json.loads(next(folder.glob(names[0])).read_text(encoding="utf-8"))
        for name in names[1:]:
            content = content[int(name) if name.isdigit() else name]
        return content

    return read


def _guidellm(folder: Path) -> Mapping[str, Any]:
    benchmark = _json("report.json", "benchmarks", "0")(folder)
    return {**benchmark["metrics"], "duration": benchmark["duration"]}


TOOLS: Final = {
    "vllm": Tool(client=VllmBench(), export=_json("result.json")),
    "sglang": Tool(client=SglangBench(), export=_json("result.jsonl")),
    "aiperf": Tool(client=Aiperf(), export=_json("artifacts/profile_export_aiperf.json")),
    "guidellm": Tool(client=Guidellm(), export=_guidellm),
    "genai-bench": Tool(client=GenaiBench(), export=_json("experiments/run/D*_time_*.json", "aggregated_metrics")),
}


def flat(export: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """Yield the numbers of an export by key, inner objects with dotted keys; null is None."""
    for key, value in export.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{key}", value


def compare(
    name: str, reported: Mapping[str, float | None], computed: Mapping[str, float | None], limit: float
) -> list[Row]:
    """Return a row for every figure that both have a key for."""
    reasons = {**NOT_COMPARED, **NOT_COMPARED_OF.get(name, {})}
    rows = []
    for key in (key for key in computed if key in reported):
        why_not = next((why for pattern, why in reasons.items() if re.search(pattern, key)), None)
        mean_key = re.sub(r"\.(std|stddev)$", lambda end: ".avg" if end[1] == "std" else ".mean", key)
        difference = relative(reported[key], computed[key], reported.get(mean_key))
        rows.append(
            Row(
                key=key,
                reported=reported[key],
                computed=computed[key],
                difference=difference,
                limit=limit,
                why_not=why_not,
            )
        )
    return rows


def relative(reported: float | None, computed: float | None, to: float | None) -> float | None:
    """Return the difference relative to a figure; 0 where both are 0, None where one is not known."""
    if reported is None or computed is None:
        return None
    if reported == computed:
        return 0.0
    return abs(reported - computed) / abs(to) if to else None


def run(client: LoadClient, requests: int, folder: Path, *, paced: bool = False) -> Task:
    """
    Run the client on an engine with known times, and return the task of that run.

    A run in which the engine itself was late, since the machine was busy, is repeated, up to five times.
    ClickException if the client fails.
    """
    for attempt in range(1, ATTEMPTS + 1):
        task, late_s = run_once(client, requests, folder / f"{attempt}", paced=paced)
        if late_s <= LATE_S[paced]:
            break
        say(f"  the engine was {late_s * 1000:.1f} ms late: {'again' if attempt < ATTEMPTS else 'kept as it is'}")
    return task


def run_once(client: LoadClient, requests: int, folder: Path, *, paced: bool) -> tuple[Task, float]:
    """Run the client on a new engine; return the task, and how late the engine was at worst, in seconds."""
    folder.mkdir(parents=True)
    work = PACED_WORK if paced else WORK
    with PacedEngine() if paced else TruthEngine(work.schedule, folder) as engine:
        task = Task(
            work=work, requests=requests, base_url=engine.base_url, ca_file=None, model=engine.model, folder=folder
        )
        code = ended(client.command(task), folder)
    if code not in MEASURED_CODES:
        how = "did not end in time" if code is None else f"exit code {code}"
        raise click.ClickException(f"{client.name}: {how}\n{last_lines(folder / OUTPUT)}")
    late_s = engine.worst_late_s if isinstance(engine, PacedEngine) else engine.log.worst_late_s.max(initial=0.0)
    return task, float(late_s)


def ended(command: Command, folder: Path) -> int | None:
    """Return the exit code of a command that runs in the folder; None if it took too long and was killed."""
    with (folder / OUTPUT).open("wb") as out:
        process = subprocess.Popen(
            command.arguments,
            cwd=folder,
            env={**os.environ, **command.environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows_of(name: str, folder: Path, own: dict[int, RunFolder], *, paced: bool) -> list[Row]:
    """Run a tool, then llmload with as many requests as the tool sent, and return their figures side by side."""
    tool = TOOLS[name]
    task = run(tool.client, REQUESTS[paced], folder / name, paced=paced)
    sent = tool.client.reported(task).completed
    if sent not in own:
        say(f"llmload: {sent} requests")
        done = run(Llmload(ramp_s=0.001), sent, folder / f"llmload-{sent}", paced=paced)
        own[sent] = RunFolder(run_folder(done.folder))
    computed = definitions_json("llmload", read_sample(own[sent]), TOOL_DEFINITIONS[name])["figures"]
    return compare(name, dict(flat(tool.export(task.folder))), computed, LIMIT[paced])


def table(name: str, rows: list[Row]) -> Table:
    """Return a row a figure."""
    definitions = TOOL_DEFINITIONS[name]
    compared = [row for row in rows if row.why_not is None]
    agree = f"{sum(row.passed for row in compared)} of {len(compared)} figures within {rows[0].limit:.0%}"
    title = f"{definitions.tool} ({definitions.release}): {agree}"
    drawn = Table(title=title, title_justify="left", caption_justify="left")
    drawn.add_column("figure")
    for column in ("tool", "llmload", "difference"):
        drawn.add_column(column, justify="right")
    drawn.add_column("")
    for why in dict.fromkeys(row.why_not for row in rows if row.why_not):
        left_out = ", ".join(row.key for row in rows if row.why_not == why)
        drawn.caption = f"{drawn.caption or ''}not compared, since {why}: {left_out}\n"
    for row in compared:
        mark = "[green]PASS" if row.passed else "[red]FAIL"
        difference = "-" if row.difference is None else f"{row.difference:.2%}"
        drawn.add_row(row.key, _number(row.reported), _number(row.computed), difference, mark)
    return drawn


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"


def say(text: str) -> None:
    """Print progress to standard error."""
    click.echo(text, err=True)


@click.command()
@click.option("--only", metavar="NAMES", help=f"Tools, with commas between: {', '.join(TOOLS)}.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write every figure here.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder to work in; its files stay.")
@click.option("--paced", is_flag=True, help="On an engine that sends role, texts, finish and end at separate times.")
def main(only: str | None, json_file: Path | None, keep: Path | None, *, paced: bool) -> None:
    """
    Compare what each tool prints with `llmload report --definitions` of the same work, figure by figure.

    Both run against the engine with known times: 12 requests, 2 at a time. Exit code 1 if fewer than four agree.
    """
    names = only.split(",") if only else [name for name, tool in TOOLS.items() if tool.client.missing() is None]
    for name in names:
        if name not in TOOLS:
            raise click.UsageError(f"--only: {name}: known are {', '.join(TOOLS)}")
        if fault := TOOLS[name].client.missing():
            raise click.UsageError(f"--only: {name}: {fault}")
    console = Console(highlight=False, width=None if Console().is_terminal else 140)
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="llmload-definitions-") as temporary:
        folder, own = (keep or Path(temporary)).absolute(), dict[int, RunFolder]()
        for name in names:
            say(f"{name}: {REQUESTS[paced]} requests")
            found[name] = rows_of(name, folder, own, paced=paced)
            console.print(table(name, found[name]))
    agree = [name for name, rows in found.items() if all(row.passed for row in rows if row.why_not is None)]
    console.print(
        f"every compared figure within {LIMIT[paced]:.0%}: {', '.join(agree) or 'none'} ({len(agree)} of {len(found)})"
    )
    if json_file:
        reported = {name: [{**asdict(row), "passed": row.passed} for row in rows] for name, rows in found.items()}
        json_file.write_text(json.dumps(reported, indent=2) + "\n", encoding="utf-8")
    raise SystemExit(0 if len(agree) >= min(ENOUGH, len(found)) else 1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparisons.definitions")
