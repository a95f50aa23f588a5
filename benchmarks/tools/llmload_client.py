"""llmload itself, as its users run it: `locust --headless` with a scenario, statistics and a run folder."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT
from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.prompts import write_prompts
from llmload import open_run

SCENARIO: Final = """\
[tool.locust]
locustfile = "{locustfile}"

[scenario]
name = "client-cost"

[engine]
name = "simulated"
base_url = "{base_url}"
{ca_file}
[model]
name = "{model}"

[prompts]
source = "{prompts}"
repeat = {repeat}

[request]
max_tokens = {tokens}

[client]
kind = "{kind}"
stamps = "{stamps}"

[load]
kind = "closed_loop"
users = {users}
requests = {requests}
spawn_rate_per_s = {spawn_rate_per_s:g}
warmup_s = {warmup_s}

[run]
folder = "runs"
"""


@dataclass(frozen=True, slots=True)
class Llmload:
    """llmload with its own client, or with the openai SDK behind the same interface."""

    name: str = "llmload"
    kind: str = "wire"
    stamps: str = "auto"
    locustfile: Path = ROOT / "locustfiles" / "chat.py"
    warmup_s: float = 0.0
    """How long after the last user's start the window begins: it leaves out opening the connections."""
    ramp_s: float | None = None
    """How long it takes to start all users; None: as the work says."""

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""
        return None

    def command(self, task: Task) -> Command:
        """Write the task's scenario, and return how to run it."""
        work = task.work
        prompts = write_prompts(task)
        scenario = SCENARIO.format(
            locustfile=self.locustfile,
            base_url=task.base_url,
            ca_file=f'ca_file = "{task.ca_file}"\n' if task.ca_file else "",
            model=task.model,
            prompts=prompts,
            repeat=str(work.prompts is not None).lower(),
            tokens=work.tokens,
            kind=self.kind,
            stamps=self.stamps,
            users=work.streams,
            requests=task.requests,
            spawn_rate_per_s=work.streams / (self.ramp_s or work.ramp_s),
            warmup_s=self.warmup_s,
        )
        (task.folder / "scenario.toml").write_text(scenario, encoding="utf-8")
        return Command(arguments=(sys.executable, "-m", "locust", "--headless", "--config", "scenario.toml"))

    def reported(self, task: Task) -> Reported:
        """Return what the run's summary says."""
        summary = json.loads((run_folder(task.folder) / "summary.json").read_text(encoding="utf-8"))
        ttft, itl, tpot = (summary[key] or {} for key in ("ttft_s", "itl_s", "tpot_s"))
        return Reported(
            completed=summary["requests"]["completed"],
            failed=summary["requests"]["failed"] + summary["requests"]["censored"],
            counted=_started_in_window(run_folder(task.folder)) if self.warmup_s else None,
            output_tokens_per_s=summary["output_tokens_per_s"],
            ttft_mean_s=ttft.get("mean"),
            ttft_p50_s=ttft.get("p50"),
            ttft_p99_s=ttft.get("p99"),
            tpot_p50_s=tpot.get("p50"),
            tpot_p99_s=tpot.get("p99"),
            itl_p50_s=itl.get("p50"),
            itl_p99_s=itl.get("p99"),
            itl_max_s=itl.get("max"),
            ttft_wire_mean_s=(summary["ttft_wire_s"] or {}).get("mean"),
            coalesced_share=summary["coalesced_share"],
            stamps=summary["stamp_source"],
            verdict=summary["verdict"]["level"],
            reasons=tuple(reason["check"] for reason in summary["verdict"]["reasons"]),
            doubted=_doubted(summary["verdict"]),
        )


def _started_in_window(folder: Path) -> frozenset[str]:
    """Return the requests that started once the warm-up was over: latencies are of these."""
    requests = open_run(folder).requests
    return frozenset(requests.loc[requests["in_window"], "request_id"])


def _doubted(verdict: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the figures that a verdict marks or invalidates, without their statistics."""
    marked = {doubt["figure"] for doubt in verdict["doubts"]}
    invalidated = {figure.split()[0] for reason in verdict["reasons"] for figure in reason["figures"]}
    return tuple(sorted(marked | invalidated))


def run_folder(folder: Path) -> Path:
    """Return the run folder inside the task's folder."""
    (found,) = (folder / "runs").iterdir()
    return found


def request_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the request lines of the run folder inside the task's folder."""
    with (run_folder(folder) / "requests.jsonl").open("rb") as lines:
        for line in lines:
            yield json.loads(line)
