"""Run folders to damage: short runs of several loads against the simulated engine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT
from llmload.errors import MEASURED
from llmload.prometheus.pages import GPU
from llmload.report.repeats import REPEAT
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS, MANIFEST, SUMMARY, RunFolder
from llmload.simulator.server import spawn
from llmload.simulator.settings import SimulationSettings
from llmload.suite.plan import make_plan
from llmload.suite.state import Status, SuiteState

SCENARIO: Final = """\
[tool.locust]
locustfile = "{locustfile}"
[scenario]
name = "sample"
protocol = "throughput"
seed = 1
[engine]
name = "simulated"
base_url = "{url}"
[model]
name = "simulated"
[prompts]
repeat = true
[request]
max_tokens = 6
[slo]
ttft_s = 0.5
[gates]
objectives = ["ttft_s p95 < 5"]
[monitor]
engine_metrics_url = "{url}/metrics"
interval_s = 0.2
[cost]
currency = "EUR"
price_per_hour = 2.0
[load]
{load}
"""
LOADS: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "timed": ("chat.py", 'kind = "closed_loop"\nusers = 3\nduration_s = 2\nwarmup_s = 0.5', ()),
    "workers": ("chat.py", 'kind = "closed_loop"\nusers = 4\nrequests = 24', ("--processes", "2")),
    "staged": (
        "chat_staged.py",
        'kind = "staged"\nwarmup_s = 0.2\nstages = [{ users = 2, duration_s = 1 }, { users = 3, duration_s = 1 }]',
        (),
    ),
    "capacity": (
        "chat_capacity.py",
        (
            'kind = "capacity"\nsearch = "users"\nobjectives = ["ttft_s p95 < 0.3"]\nstart = 1\nat_most = 2\n'
            "warmup_s = 0.2\nstep_min_s = 1\nstep_max_s = 1"
        ),
        (),
    ),
    "replay": ("chat.py", 'kind = "replay"\ntrace = "trace.csv"\nspeed = 1.0', ()),
}
"""The locustfile, the load and the options of each sample that is a separate run."""


def make_samples(home: Path, names: tuple[str, ...] = tuple(LOADS)) -> list[Path]:
    """Run the loads and return their folders, with those that are derived of them: of an edited run, of one cut."""
    with spawn(SimulationSettings(port=0, ttft_s=0.01, itl_s=0.002, faults={"http_500": 0.1})) as engine:
        folders = [_run(home, name, engine.url) for name in names]
    timed = folders[0]
    _add_gpu_samples(timed)
    derived = [_edited(timed, home / "edited"), _cut(timed, home / "cut")]
    return [*folders, *derived, _repeated(timed, home / "repeated"), _suite(timed, home / SUITE)]


def _run(home: Path, name: str, url: str) -> Path:
    locustfile, load, options = LOADS[name]
    work = home / f"{name}-run"
    work.mkdir()
    (work / "trace.csv").write_text("timestamp\n" + "\n".join(f"{index * 0.1:.1f}" for index in range(15)) + "\n")
    text = SCENARIO.format(locustfile=ROOT / "locustfiles" / locustfile, url=url, load=load)
    (work / "scenario.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "llmload.cli.main", "run", "scenario.toml", "--out", "runs", "--json"]
    done = subprocess.run(
        [*command, "--metrics-port", "off", "--progress", "off", *options], cwd=work, capture_output=True, check=False
    )
    if done.returncode not in MEASURED:
        raise RuntimeError(f"the run of sample {name} ended with {done.returncode}: {done.stderr.decode()}")
    (folder,) = (work / "runs").iterdir()
    return folder.rename(home / name)


def _add_gpu_samples(folder: Path) -> None:
    """Add the file of a run that read its GPUs' metrics."""
    times = [line.split(",")[0] for line in (folder / ENGINE_METRICS).read_text().splitlines()[1:]]
    rows = [f"{time},http://127.0.0.1:9400/metrics,{gpu}" for time in times for gpu in (0, 1)]
    lines = [",".join(["unix_s", "url", "part", *(figure.name for figure in GPU)])]
    lines += [
        ",".join([row, *(str(index * 10 + column) for column in range(len(GPU)))]) for index, row in enumerate(rows)
    ]
    (folder / GPU_METRICS).write_text("\n".join(lines) + "\n")


def _repeated(of: Path, to: Path) -> Path:
    """Return the folder of a run that was repeated."""
    for name in ("first", "second"):
        shutil.copytree(of, to / name)
    RunFolder(to).write(REPEAT, {"requested": 2, "runs": ["first", "second"], "spread": {}})
    return to


SUITE: Final = "suite"
SUITE_FILE: Final = "sample-suite.toml"
_SUITE_TEXT: Final = """\
[suite]
name = "sample"
warmup_requests = 0
[engines.here]
engine = "simulated"
kind = "running"
url = "http://127.0.0.1:1"
label = "here"
pass_env = ["PATH"]
ready_timeout_s = 1e-6
[models.one]
served_as = "one"
[protocols.speed]
scenario = "lima-speed"
set = ["prompts.source=builtin", "prompts.count=3", "load.requests=3"]
[protocols.throughput]
scenario = "lima-throughput"
set = ["prompts.source=builtin", "prompts.repeat=true"]
[protocols.later]
scenario = "lima-speed"
set = ["prompts.source=builtin", "prompts.count=4", "load.requests=4"]
"""
"""Nothing listens there: a cell that is measured again fails at once."""


def _suite(of: Path, to: Path) -> Path:
    """Return the folder of a suite with a good cell, a failed one, and one that is not done."""
    to.mkdir()
    (to / SUITE_FILE).write_text(_SUITE_TEXT, encoding="utf-8")
    plan = make_plan(to / SUITE_FILE, folder=to)
    (deployment,) = plan.deployments
    state = SuiteState(to, starts_s={deployment.name: 1.0})
    good, failed, _ = deployment.cells
    shutil.copytree(of, to / "runs" / good.name / "r")
    for cell in (good, failed):
        state.begin(cell.name, plan.fingerprint(deployment, cell))
    state.cells[good.name].run_folder = f"runs/{good.name}/r"
    state.cells[good.name].engine_version = "1.0"
    state.end(good.name, Status.GOOD)
    state.end(failed.name, Status.FAILED, "the engine ended with exit code 1; the last lines of its log:\n    killed")
    log = to / "logs" / deployment.name / "engine.log"
    log.parent.mkdir(parents=True)
    log.write_text("ready\n")
    return to


def _edited(of: Path, to: Path) -> Path:
    """Return the folder as a run leaves it whose load was edited, and that crashed then."""
    shutil.copytree(of, to)
    (to / SUMMARY).unlink()
    manifest: dict[str, Any] = json.loads((to / MANIFEST).read_text())
    began = manifest["started_unix_s"]
    manifest["edits"] = [{"unix_s": began + 1.2, "what": "users", "before": 3, "after": 5}]
    manifest["timeline"]["stages"] = [_phase("3 users", 3, began, began + 1.2), _phase("5 users", 5, began + 1.2, None)]
    (to / MANIFEST).write_text(json.dumps(manifest))
    return to


def _phase(name: str, users: int, start_s: float, end_s: float | None) -> dict[str, Any]:
    times = {"start_unix_s": start_s, "window_start_unix_s": start_s + 0.1, "end_unix_s": end_s}
    return {"name": name, "users": users, "rate_per_s": None, **times}


def _cut(of: Path, to: Path) -> Path:
    """Return the folder as a crash leaves it: no summary, and a last line that is not whole."""
    shutil.copytree(of, to)
    (to / SUMMARY).unlink()
    for file in to.glob("requests*.jsonl"):
        file.write_bytes(file.read_bytes()[:-20])
    return to
