"""`python -m benchmarks.tools.pictures`: runs on the simulated engine, and the documentation's pictures of them."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import click

from benchmarks import ROOT
from benchmarks.tools.pictures.browser import Browser, opened, wait_until
from llmload.scenario.reading import free_port
from llmload.simulator import SimulationSettings, spawn

WIDTH: Final = 1100
PHONE: Final = 390
"""A page's width on a desk and on a phone, in pixels."""
MOST_BYTES: Final = 150_000
"""A picture in the documentation has at most as many."""
START: Final = "[...document.querySelectorAll('button')].find((button) => button.textContent === 'Start')"
"""The start form's button."""
ENGINE: Final = SimulationSettings(model="simulated", slots=6, itl_s=0.01, output_tokens_mean=40.0)
FAULTS: Final = {"http_500": 0.08, "http_429": 0.04}
LIMITS: Final = "[slo]\nttft_s = 0.6\ntpot_s = 0.05\n"
CLOSED: Final = 'kind = "closed_loop"\nusers = 8\nduration_s = 90\nwarmup_s = 2\n'
STAGED: Final = (
    'kind = "staged"\nwarmup_s = 2\nstages = [\n    { users = 2, duration_s = 15 },\n'
    "    { users = 4, duration_s = 15 },\n    { users = 8, duration_s = 15 },\n]\n"
)


def scenario(folder: Path, name: str, url: str, load: str) -> Path:
    """Write a scenario for the engine at this address, and return its file."""
    locustfile = "chat_staged.py" if load == STAGED else "chat.py"
    file = folder / f"{name}.toml"
    file.write_text(
        f'[tool.locust]\nlocustfile = "{ROOT}/locustfiles/{locustfile}"\n[scenario]\nname = "{name}"\nseed = 1\n'
        f'protocol = "throughput"\n[engine]\nname = "simulated"\nbase_url = "{url}"\n[model]\nname = "simulated"\n'
        f"[prompts]\nrepeat = true\n[request]\nmax_tokens = 48\n{LIMITS}[load]\n{load}",
        encoding="utf-8",
    )
    return file


def command(file: Path, *options: str) -> list[str]:
    """Return Locust's command for the scenario, with run folders beside it."""
    locust = [sys.executable, "-m", "locust", "--config", file.name, "--out", "runs", "--metrics-port", "off"]
    return [*locust, *options]


def run(folder: Path, name: str, load: str, **faults: float) -> Path:
    """Run a load headless to its end, and return its run folder."""
    with spawn(replace(ENGINE, faults=faults)) as engine:
        file = scenario(folder, name, engine.url, load)
        subprocess.run(command(file, "--headless", "--summary", "none"), cwd=folder, check=False, capture_output=True)
    return max((folder / "runs").glob(f"*-{name}-*"))


@contextmanager
def served(folder: Path, name: str, load: str, **faults: float) -> Iterator[str]:
    """Serve Locust's web UI for a load until the context ends; yields its address."""
    with spawn(replace(ENGINE, faults=faults)) as engine:
        file, port = scenario(folder, name, engine.url, load), free_port()
        log = (folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            command(file, "--web-port", str(port)), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            root = f"http://127.0.0.1:{port}/"
            wait_until(lambda: process.poll() is None and _answers(root), f"{root} answers")
            yield root
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)
            log.close()


def _answers(url: str) -> bool:
    try:
        with urlopen(url) as answer:  # noqa: S310 - our own process's address
            return bool(answer.read())
    except OSError:
        return False


def start_form(browser: Browser, root: str, out: Path) -> None:
    """Draw the start form, unfolded."""
    browser.look(WIDTH)
    browser.open(root)
    browser.until("document.querySelectorAll('.MuiAccordionSummary-root').length > 1")
    browser.run("document.querySelectorAll('.MuiAccordionSummary-root').forEach((part) => part.click())")
    browser.picture(out / "start-form.png")


def live_page(browser: Browser, root: str, out: Path, name: str, *, width: int = WIDTH, dark: bool = False) -> None:
    """Start the load of the form, and draw the live page once it has measured for a while."""
    browser.look(WIDTH)
    browser.open(root)
    browser.until(f"{START} !== undefined")
    browser.run(f"{START}.click()")
    browser.look(width, dark=dark)
    browser.open(f"{root}llm")
    browser.until("Number(document.getElementById('stage').textContent.match(/([0-9.]+) s measured/)?.[1]) > 30")
    browser.picture(out / name, most=1500)


def report(browser: Browser, folder: Path, file: Path, *, width: int, most: int, dark: bool = False) -> None:
    """Draw the beginning of a run's report."""
    page = folder.parent.parent / f"{file.stem}.html"
    subprocess.run([sys.executable, "-m", "llmload.cli.main", "report", str(folder), "--html", str(page)], check=True)
    browser.look(width, dark=dark)
    browser.open(page.as_uri())
    browser.picture(file, most=most)


@click.command()
@click.option("--docs", type=click.Path(file_okay=False, path_type=Path), default=ROOT / "docs")
def main(docs: Path) -> None:
    """Run for five minutes, and draw start form, live page, report and terminal."""
    out = docs / "pictures"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="llmload-pictures-") as name:
        folder = Path(name)
        staged, failing = run(folder, "three-stages", STAGED), run(folder, "failing", CLOSED, **FAULTS)
        with opened(folder / "browser") as browser:
            report(browser, staged, docs / "report.png", width=WIDTH, most=1750)
            report(browser, failing, out / "report-failing.png", width=PHONE, most=1400, dark=True)
            with served(folder, "chat", CLOSED) as root:
                start_form(browser, root, out)
                live_page(browser, root, out, "live.png")
            with served(folder, "failing", CLOSED, **FAULTS) as root:
                live_page(browser, root, out, "live-failing.png", width=PHONE, dark=True)
        terminal = [sys.executable, "-m", "llmload.cli.main", "report", str(staged), str(failing)]
        subprocess.run([*terminal, "--svg", str(docs / "demo.svg")], check=False, stdout=subprocess.DEVNULL)
    for picture in (docs / "report.png", *sorted(out.glob("*.png"))):
        size = picture.stat().st_size
        click.echo(f"{picture}: {size / 1000:.0f} kB{'' if size <= MOST_BYTES else ', too large'}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.tools.pictures")
