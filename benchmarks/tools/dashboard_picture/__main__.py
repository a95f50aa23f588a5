"""`python -m benchmarks.tools.dashboard_picture`: a run on the simulated engine, as the dashboard shows it."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from benchmarks import ROOT
from benchmarks.tools.dashboard_picture.gpus import GPUS, made_up_gpus
from benchmarks.tools.dashboard_picture.page import DASHBOARD, page
from benchmarks.tools.dashboard_picture.picture import screenshot
from benchmarks.tools.dashboard_picture.prometheus import running
from benchmarks.tools.pictures.small import shrink
from llmload.scenario.reading import free_port
from llmload.simulator import SimulationSettings, spawn

SCRAPE_S: Final = 2.0
RATE_S: Final = 4 * SCRAPE_S
"""Grafana's $__rate_interval."""
MARGIN_S: Final = 4.0
"""The picture is taken this long before the run's end."""
SIZE: Final = (1600, 1446)
ENGINE: Final = SimulationSettings(
    model="simulated",
    slots=10,
    itl_load_factor=2.5,
    output_tokens_mean=60,
    prefix_cache_tokens=20_000,
    faults={"http_500": 0.01},
)
LOAD: Final = """\
kind = "staged"
stages = [
    { users = 4, duration_s = 45 },
    { users = 8, duration_s = 45 },
    { users = 16, duration_s = 45 },
    { users = 6, duration_s = 45 },
]
"""


def scenario(url: str) -> str:
    """Return a scenario of four stages; the third has more users than the engine has slots."""
    return (
        f'[tool.locust]\nlocustfile = "{ROOT}/locustfiles/chat_staged.py"\n[scenario]\nname = "four-stages"\nseed = 1\n'
        f'[engine]\nname = "simulated"\nbase_url = "{url}"\n[model]\nname = "llama-2-7b"\nserved_as = "simulated"\n'
        f'[deployment]\ngpu = "A100-SXM4-80GB"\ngpus = {GPUS}\n[prompts]\nrepeat = true\n'
        f"[slo]\nttft_s = 0.5\n[load]\n{LOAD}"
    )


def recorded_page(folder: Path) -> str:
    """Run llmload on the simulated engine, scraped by a Prometheus, and return the dashboard's page of that run."""
    port = free_port()
    with spawn(ENGINE) as engine, made_up_gpus(engine.url) as gpus:
        jobs = {"llmload": f"127.0.0.1:{port}", "engine": engine.url.removeprefix("http://"), "dcgm": gpus}
        with running(folder, jobs, SCRAPE_S) as prometheus:
            file = folder / "four-stages.toml"
            file.write_text(scenario(engine.url), encoding="utf-8")
            command = [
                sys.executable,
                "-m",
                "locust",
                "--config",
                str(file),
                "--headless",
                "--out",
                str(folder / "runs"),
            ]
            command += ["--metrics-port", str(port), "--llmload-linger", "30", "--processes", "2"]
            begun_s = time.time()
            subprocess.run(command, cwd=folder, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            going = prometheus.over_time("max(llmload_run_info) == 1", begun_s, time.time(), SCRAPE_S)
            ended_s = float(going[-1]["values"][-1][0]) - MARGIN_S
            about = (
                "A run on llmload's simulated engine, two workers, GPUs that are made up, "
                f"scraped by Prometheus {prometheus.version()}"
            )
            return page(
                json.loads(DASHBOARD.read_text(encoding="utf-8")),
                lambda expression: prometheus.over_time(expression, begun_s, ended_s, SCRAPE_S),
                RATE_S,
                about,
            )


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "docs" / "dashboard.png")
@click.option("--page", "page_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the page here too.")
def main(out: Path, page_file: Path | None) -> None:
    """Run for three minutes beside made-up GPUs, scraped by a Prometheus, and draw the answers to all queries."""
    with tempfile.TemporaryDirectory(prefix="llmload-picture-") as name:
        folder = Path(name)
        html = recorded_page(folder)
        file = page_file or folder / "dashboard.html"
        file.write_text(html, encoding="utf-8")
        screenshot(file, out.absolute(), folder / "browser", SIZE)
        shrink(out)
    click.echo(f"{out}: {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.tools.dashboard_picture")
