"""Every command in the README, the documents and the help texts works as it stands there."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llmload.cli.main import VERBS, main
from llmload.loadgen.command import free_port
from llmload.simulator import SimulationSettings, SpawnedEngine, spawn

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
INVALID = 3
ELSEWHERE = {
    "make": "CI calls make test; make demo is `llmload demo`, see tests/cli/test_demo.py; make suite: tests/suite",
    "python -m benchmarks.tools.cpu_engines": "tests/loadgen/test_real_engine.py",
    "python -m benchmarks.": "figures of minutes to an hour; tests/benchmarks runs them in short",
    "curl": "a request to a real engine by hand, as an example of its protocol",
    "llmload demo": "tests/cli/test_demo.py",
    "llmload run capacity": "tests/loadgen/test_capacity.py: a search takes a minute",
    "llmload run demo-capacity": "the same",
    "locust --config scenarios/demo-capacity.toml": "the same",
    "locust --config scenarios/demo-spike.toml": "tests/loadgen/test_spike.py: it is not cut to less than a period",
    "llmload vram": "tests/sizing runs every example of that room",
    "llmload engine simulate": "tests/simulator",
    "llmload prompts": "tests/prompts",
    "llmload compare": "tests/cli/test_compare.py",
    "llmload report": "tests/cli/test_report.py",
}


def commands_of(page: Path) -> Iterator[str]:
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        command = ""
        for line in block.replace("\\\n", " ").splitlines():
            command += f"\n{line}" if command else line.partition(" #")[0].strip()
            if command.count("'") % 2 == 0:  # a quoted body may go over several lines
                yield from [command] if command else []
                command = ""


def examples_of(verb: str) -> Iterator[str]:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    examples = (command.help or "").partition("Examples:")[2] or (command.help or "").partition("Example:")[2]
    yield from (line.strip() for line in examples.splitlines() if line.strip().startswith("llmload"))


EVERYTHING = sorted(
    {command for page in PAGES for command in commands_of(page)}
    | {example for verb in VERBS for example in examples_of(verb)}
)
RUN_HERE = [command for command in EVERYTHING if not any(command.startswith(start) for start in ELSEWHERE)]


@pytest.fixture(scope="module")
def engine() -> Iterator[SpawnedEngine]:
    settings = SimulationSettings(model="NAME", ttft_s=0.1, prefill_s_per_token=0.0, itl_s=0.01, output_tokens=4)
    with spawn(settings) as running:
        yield running


def on(command: str, engine: SpawnedEngine, out: Path) -> list[str]:
    """The command as it stands, on an engine that answers, with a run that is over in seconds."""
    text = (
        re.sub(r"http://127\.0\.0\.1:\d+", engine.url, command)
        .replace("my-model", "NAME")
        .replace("--repeat 3", "--repeat 2")
    )
    words = shlex.split(text)
    words[:1] = [sys.executable, "-m", *(["llmload.cli.main"] if words[0] == "llmload" else ["locust"])]
    if "run" in words[3:4] or words[2] == "locust":
        words += ["--out", str(out)]
        words = [re.sub(r"^lima$", "builtin", word) for word in words]
        for flag, value in (("--model", "NAME"), ("--base-url" if "run" in words[3:4] else "--host", engine.url)):
            words += [] if flag in words else [flag, value]
        words += ["--set", "prompts.source=builtin"]
        words += ["--set", "load.requests=8"] if "speed" in text else ["--run-time", "2s", "--set", "load.warmup_s=0.5"]
        if "staged" in text:
            words += ["--set", "load.stages=[{users=2, duration_s=1.5}, {users=4, duration_s=1.5}]"]
    if words[2] == "locust" and "--processes" in words:
        port = str(free_port())  # another test's master may be listening on Locust's own
        words += ["--master-port", port, "--master-bind-port", port]
    return words


@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_works_as_it_is_written(command: str, engine: SpawnedEngine, tmp_path: Path) -> None:
    words = on(command, engine, tmp_path)
    web = words[2] == "locust" and "--headless" not in words
    if web:
        words += ["--web-port", "0", "--autostart", "--autoquit", "0"]

    for _ in range(3):
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        if ended.returncode != INVALID:  # as on a machine too busy to measure: once more
            break

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_command_is_run_somewhere() -> None:
    assert EVERYTHING
    assert all(reason for reason in ELSEWHERE.values())
    assert {command.split()[0] for command in EVERYTHING} <= {"llmload", "locust", "make", "python", "curl"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_simulated_engine_of_the_readme_starts_and_ends_with_ctrl_c() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmload.cli.main", "engine", "simulate", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("simulated engine ready at ")
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=10)

    assert process.returncode == 0
