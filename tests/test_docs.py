"""Every command in the README, the documents and the help texts works as it is written there."""

import ast
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from benchmarks.tools.pages import commands_of
from llmload.cli.main import main
from llmload.simulator import SimulationSettings, SpawnedEngine, spawn
from tests.installed import build_wheel, install_core

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {
    "python -m benchmarks.tools.cpu_engines": "tests/loadgen/test_real_engine.py",
    "python -m benchmarks.tools.peers": "tests/benchmarks/test_client_cost.py::TestClients",
    "python -m benchmarks.tools.truth_engine": "tests/benchmarks/test_truth_engine.py",
    "python -m benchmarks.tools.dashboard_picture": "tests/prometheus/test_expressions.py",
    "python -m benchmarks.tools.pictures": "tests/benchmarks/test_pictures.py",
    "python -m benchmarks.comparisons.client_cost": "tests/benchmarks/test_client_cost.py",
    "python -m benchmarks.comparisons.definitions": "tests/benchmarks/test_definitions.py",
    "python -m benchmarks.fuzz": "tests/benchmarks/test_fuzz.py",
    "python -m benchmarks.comparisons.trust": "tests/benchmarks/test_trust.py",
    "python -m benchmarks.trials.capacity": "tests/benchmarks/test_capacity.py",
    "python -m benchmarks.trials.compare": "tests/benchmarks/test_compare.py",
    "python -m benchmarks.trials.ends": "tests/benchmarks/test_ends.py",
    "python -m benchmarks.trials.first_use": "tests/benchmarks/test_first_use.py",
    "python -m benchmarks.trials.exporter": "tests/prometheus/test_exporter_benchmark.py",
    "python -m benchmarks.trials.folders": "tests/benchmarks/test_folders.py",
    "python -m benchmarks.trials.limits": "tests/benchmarks/test_limits.py",
    "python -m benchmarks.trials.gpu_sizing": "tests/sizing/test_gpu_sizing.py",
    "python -m benchmarks.trials.lengths": "tests/loadgen/test_lengths.py",
    "llmload run chat --base-url http://127.0.0.1:8000 --input-tokens": "tests/loadgen/test_lengths.py",
    "python -m benchmarks.trials.network": "tests/benchmarks/test_network.py",
    "python -m benchmarks.trials.report": "tests/benchmarks/test_report.py",
    "python -m benchmarks.trials.runs": "tests/benchmarks/test_whole_runs.py",
    "python -m benchmarks.trials.scraping": "tests/benchmarks/test_scraping.py",
    "python -m benchmarks.trials.sizing": "tests/sizing/test_golden.py",
    "python -m benchmarks.trials.size_bounds": "tests/sizing/test_bounds.py",
    "python -m benchmarks.trials.sweep": "tests/benchmarks/test_sweep.py",
    "python -m benchmarks.trials.suite": "tests/suite/test_suite_runs.py",
    "python -m benchmarks.trials.unseen_sizes": "tests/sizing/test_unseen.py",
    "python -m benchmarks.trials.verdicts": "tests/benchmarks/test_verdicts.py",
    "python -m benchmarks.trials.watched_engines": "tests/benchmarks/test_watched_engines.py",
    "llmload demo": "tests/cli/test_demo.py",
    "llmload run sweep": "tests/loadgen/test_sweep.py",
    "llmload suite demo-suite": "tests/suite/test_vary.py",
    "llmload suite benchmarks/llamacpp-suite.toml": "tests/suite/test_vary.py",
    "llmload run capacity": "tests/loadgen/test_capacity.py",
    "llmload run demo-capacity": "tests/loadgen/test_capacity.py",
    "locust --config scenarios/demo-capacity.toml": "tests/loadgen/test_capacity.py",
    "locust -f locustfiles/assistant.py": "tests/loadgen/test_own_users.py",
    "locust -f locustfiles/rag.py": "tests/loadgen/test_own_users.py",
    "locust --config scenarios/demo-spike.toml": "tests/loadgen/test_spike.py",
    "llmload vram": "tests/sizing/test_cli.py",
    "llmload engine simulate": "tests/simulator/test_command.py",
    "llmload prompts": "tests/prompts/test_cli.py",
    "llmload scenarios": "tests/cli/test_scenarios.py",
    "llmload compare": "tests/cli/test_compare.py",
    "llmload dashboards export": "tests/cli/test_dashboards.py",
    "pip install": "tests/test_packaging.py",
    "llmload report": "tests/cli/test_report.py",
}
"""Commands that take long or need what is not here, by how they begin, and the tests that run them in their way."""
TARGETS = {
    "audit": "benchmarks.tools.advisories",
    "demo": "llmload demo",
    "lock": "pyproject.toml deploy/requirements.txt deploy/build-requirements.txt",
    "lock-upgrade": "--upgrade deploy/requirements.txt deploy/build-requirements.txt",
    "sbom": "cyclonedx-py deploy/requirements.txt",
    "suite": "llmload suite",
    "test": "unit lint engine-test",
    "unit": "pytest",
}
"""What `make` runs for each target that the pages name."""


def examples_of(command: click.Command) -> Iterator[str]:
    said = command.help or ""
    examples = said.partition("Examples:")[2] or said.partition("Example:")[2]
    yield from (line.strip() for line in examples.splitlines() if line.strip().startswith("llmload"))
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            verb = command.get_command(click.Context(command), name)
            assert verb is not None
            yield from examples_of(verb)


EVERYTHING = sorted({command for page in PAGES for command in commands_of(page)} | set(examples_of(main)))
RUN_HERE = [command for command in EVERYTHING if not command.startswith((*ELSEWHERE, "make "))]
FIRST = {command for page in ("README.md", "docs/start.md") for command in commands_of(ROOT / page)}
"""What a new user types: run as the wheel's own programs, with the core alone, from an empty folder."""


@pytest.fixture(scope="module")
def engine() -> Iterator[SpawnedEngine]:
    settings = SimulationSettings(model="NAME", ttft_s=0.1, prefill_s_per_token=0.0, itl_s=0.01, output_tokens=4)
    with spawn(settings) as running:
        yield running


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    return install_core(build_wheel(folder), folder / "env")


def on(command: str, engine: SpawnedEngine, out: Path) -> list[str]:
    """The command as it is written, on an engine that answers, with a run that is over in seconds."""
    text = (
        re.sub(r"http://127\.0\.0\.1:\d+", engine.url, command)
        .replace("my-model", "NAME")
        .replace("--repeat 3", "--repeat 2")
    )
    words = shlex.split(text)
    if words[0] == "curl":
        return ["curl", "--fail", *(word.replace(".engines/models/smollm2", "NAME") for word in words[1:])]
    words[:1] = [sys.executable, "-m", *(["llmload.cli.main"] if words[0] == "llmload" else ["locust"])]
    if "run" in words[3:4] or words[2] == "locust":
        words += ["--out", str(out)]
        words = [re.sub(r"^lima$", "builtin", word) for word in words]
        for flag, value in (("--model", "NAME"), ("--base-url" if "run" in words[3:4] else "--host", engine.url)):
            words += [] if flag in words else [flag, value]
        words += ["--set", "prompts.source=builtin"]
        time = "4s" if "--processes" in words else "2s"  # workers take their time to start beside other tests
        if "speed" in text:
            words += ["--set", "load.requests=8"]
        elif "staged" in text:
            words += ["--set", "load.stages=[{users=2, duration_s=1.5}, {users=4, duration_s=1.5}]"]
        elif "--requests" not in words:
            words += ["--run-time", time]
        words += [] if "speed" in text else ["--set", "load.warmup_s=0.5"]
    return words


@pytest.mark.timing  # on a machine too busy to measure, a run is INVALID
@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_works_as_it_is_written(command: str, engine: SpawnedEngine, programs: Path, tmp_path: Path) -> None:
    words, folder = on(command, engine, tmp_path), ROOT
    if command in FIRST and "scenarios/" not in command:
        words[:3], folder = [str(programs / command.split()[0])], tmp_path
    web = "--web" in words or (words[2] == "locust" and "--headless" not in words)
    environment = os.environ | {"GATEWAY_KEY": "sk-of-the-docs"}
    if web:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment |= {"LOCUST_WEB_PORT": port, "LOCUST_AUTOSTART": "true", "LOCUST_AUTOQUIT": "0"}

    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert "sk-of-the-docs" not in ended.stdout + ended.stderr
    assert ended.returncode == 0, ended.stdout + ended.stderr


def has_tests(node: str) -> bool:
    """Whether pytest finds a test in a file or folder, or in a class or of a name in a file."""
    place, _, name = node.partition("::")
    files = sorted((ROOT / place).glob("test_*.py")) if (ROOT / place).is_dir() else [ROOT / place]
    for file in files:
        inside = ast.parse(file.read_text(encoding="utf-8")).body
        if name:
            inside = [part for part in inside if getattr(part, "name", "") == name]
        if any(
            isinstance(part, ast.FunctionDef) and part.name.startswith("test_")
            for each in inside
            for part in ast.walk(each)
        ):
            return True
    return False


def test_what_readme_and_start_page_say_of_other_tools_is_the_tables() -> None:
    table = re.search(
        r"^\| tool \| faults injected .*?\n\n", (ROOT / "docs/trust.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert table is not None
    (injected, named, right, _), *others = [
        list(map(int, re.findall(r"\d+", row))) for row in table[0].splitlines()[2:-1]
    ]
    wrong = [each[0] - each[2] for each in others]
    unsaid = [each[3] for each in others]

    assert injected == right, "no wrong figure of llmload's"
    assert table[0] in (ROOT / "docs/index.md").read_text()
    assert (
        f"Of {injected} faults in its runs, llmload named {named} and reported a wrong figure under none; the "
        f"{len(others)} other load generators that were tried reported wrong figures under {min(wrong)} to "
        f"{max(wrong)} of them, and said nothing under {min(unsaid)} to {max(unsaid)} of these"
    ) in " ".join((ROOT / "README.md").read_text().split())


def test_every_command_is_run_somewhere() -> None:
    assert not [node for node in sorted(set(ELSEWHERE.values())) if not has_tests(node)], "collected by pytest"
    assert not [start for start in ELSEWHERE if not any(command.startswith(start) for command in EVERYTHING)], "used"
    assert {command.split()[0] for command in EVERYTHING} <= {"llmload", "locust", "make", "pip", "python", "curl"}


@pytest.mark.parametrize("command", [command for command in EVERYTHING if command.startswith("make ")])
def test_make_has_the_target_and_runs_what_its_name_says(command: str) -> None:
    target = command.split()[1]
    rule = re.search(
        rf"^(?:[\w-]+ )*{target}(?: [\w-]+)*:.*\n(?:\t.*\n)*",
        (ROOT / "Makefile").read_text(encoding="utf-8"),
        re.MULTILINE,
    )

    assert rule is not None
    assert all(word in rule.group() for word in TARGETS[target].split())


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
