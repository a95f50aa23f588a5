"""
Whether the limit of a deployment is named: `python -m benchmarks.trials.limits`.

Ten simulated deployments, each with one limit that is known beforehand. Each is loaded for some seconds, and
`limited_by` in its summary must name that limit. With `--vllm` it is a real vLLM on the CPU instead, which may
run 4 requests at a time and has 8 users.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.trials.watched_engines import serving
from llmload.scenario.reading import find_scenario, locust_command
from llmload.simulator import SimulationSettings, spawn

SLOW_CLIENT: Final = """
import time
import gevent
from gevent.monkey import get_original
from locust import events
from llmload import ChatUser

block = get_original("time", "sleep")

class Chat(ChatUser):
    pass

def hold_up():
    while True:
        gevent.sleep(0.2)
        block(0.3)

@events.init.add_listener
def begin(environment, **_):
    gevent.spawn(hold_up)
"""
"""A locustfile whose process does nothing for 0.3 s at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A deployment and its load, and the limit that they have."""

    name: str
    limit: str
    engine: SimulationSettings | Sequence[str]
    """Of the simulated engine; or options of vLLM, with SmolLM2-135M."""
    users: int
    settings: Mapping[str, str] = field(default_factory=dict)
    locustfile: str = ""


def _engine(**settings: Any) -> SimulationSettings:
    usual = {"ttft_s": 0.02, "prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 40}
    return SimulationSettings(**{**usual, **settings})


H100: Final = {"deployment.gpu": "H100-SXM5-80GB", "deployment.gpus": "1", "model.catalogue": "Llama-3.1-8B-Instruct"}
PLANTED: Final = (
    Planted(name="a client that stalls", limit="client", engine=_engine(), users=8, locustfile=SLOW_CLIENT),
    Planted(name="a full KV cache", limit="kv_cache", engine=_engine(kv_cache_tokens=500), users=16),
    Planted(
        name="preemptions",
        limit="kv_cache",
        engine=_engine(kv_cache_tokens=600, keeps_kv_cache=True, output_tokens=100),
        users=12,
    ),
    Planted(name="4 slots, 12 users", limit="max_num_seqs", engine=_engine(slots=4), users=12),
    Planted(
        name="8 slots, 24 users, its own times said",
        limit="max_num_seqs",
        engine=_engine(slots=8, per_request_metrics=True, output_tokens=80),
        users=24,
    ),
    Planted(name="a slow proxy", limit="network", engine=_engine(proxy_s=0.15), users=4),
    Planted(
        name="a slow proxy, the engine's own times said",
        limit="network",
        engine=_engine(proxy_s=0.15, per_request_metrics=True),
        users=8,
    ),
    Planted(name="long prefill", limit="prefill", engine=_engine(ttft_s=0.5, output_tokens=20), users=8),
    Planted(name="the bandwidth of an H100", limit="bandwidth", engine=_engine(itl_s=0.006), users=1, settings=H100),
    Planted(name="nothing", limit="nothing", engine=_engine(), users=2),
)
REAL: Final = Planted(
    name="vLLM on the CPU, --max-num-seqs 4, 8 users",
    limit="max_num_seqs",
    engine=["--max-num-seqs", "4"],
    users=8,
    settings={"request.max_tokens": "64"},
)


@contextmanager
def served(planted: Planted) -> Iterator[tuple[str, str]]:
    """Run the deployment while the context lasts; yield its address and model."""
    if isinstance(planted.engine, SimulationSettings):
        with spawn(planted.engine) as engine:
            yield engine.url, "simulated"
    else:
        with serving("vllm", "smollm2", *planted.engine) as url:
            yield url, "smollm2"


def run(planted: Planted, folder: Path, length_s: int) -> dict[str, Any] | None:
    """Return what the run's summary says of its limit; None where there is none."""
    with served(planted) as (url, model), tempfile.TemporaryDirectory() as scratch:
        arguments = ["--config", str(find_scenario("chat")), "--host", url, "--headless", "--summary", "json"]
        arguments += ["--model", model, "--engine", "vllm", "--users", str(planted.users)]
        arguments += ["--run-time", f"{length_s}s", "--out", str(folder), "--metrics-port", "off"]
        watched = {"monitor.engine_metrics_url": f"{url}/metrics", "monitor.interval_s": "0.25"}
        for key, value in {**watched, **planted.settings}.items():
            arguments += ["--set", f"{key}={value}"]
        if planted.locustfile:
            file = Path(scratch) / "slow_client.py"
            file.write_text(planted.locustfile, encoding="utf-8")
            arguments += ["--locustfile", str(file)]
        done = subprocess.run(locust_command(arguments), capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] | None = json.loads(done.stdout).get("limited_by")
    except ValueError:
        click.echo(done.stderr.strip()[-500:], err=True)
        return None
    return found


@click.command(help=__doc__)
@click.option("--length-s", default=6, show_default=True, help="Seconds of each run.")
@click.option("--only", default="", help="Only deployments whose name has this.")
@click.option("--vllm", is_flag=True, help="A real vLLM instead: 30 s and more, until each batch size has run once.")
def main(length_s: int, only: str, vllm: bool) -> None:
    """Run each deployment and say which limits were named."""
    right, tried = 0, [planted for planted in ((REAL,) if vllm else PLANTED) if only in planted.name]
    if not tried:
        raise click.BadParameter(f"no deployment is called {only}", param_hint="--only")
    with tempfile.TemporaryDirectory() as folder:
        for planted in tried:
            found = run(planted, Path(folder), length_s)
            named = "none" if found is None else found["limit"]
            right += named == planted.limit
            said = "" if found is None else f": {found['text']}: {found['remedy']}"
            click.echo(f"{'PASS' if named == planted.limit else 'FAIL'}  {planted.name}: {named}{said}")
    click.echo(f"{right} of {len(tried)} limits were named")
    sys.exit(0 if right == len(tried) else 1)


if __name__ == "__main__":
    main()
