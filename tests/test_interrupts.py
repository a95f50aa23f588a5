"""Ctrl-C, SIGTERM and SIGHUP while a command starts: one line, exit code 130, never a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCUST = [
    sys.executable,
    "-m",
    "locust",
    "--config",
    "scenarios/demo.toml",
    "--headless",
    "--host",
    "http://127.0.0.1:1",
]
RUN = [sys.executable, "-m", "llmload.cli.main", "run", "demo", "--base-url", "http://127.0.0.1:1"]
SLOW = """
import os, sys, time


class Slow:
    def find_spec(self, name, *_):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.write(1, b"here\\n")
            try:
                time.sleep(30)
            except BaseException:
                raise ImportError("as libraries do") from None


sys.meta_path.insert(0, Slow())
"""
"""A `sitecustomize` that stops a process at its first import of a name, and hides what is raised meanwhile."""
PLACES = {
    "locust, its locustfile": (LOCUST, "llmload.loadgen.users", "before the run began: nothing was sent"),
    "locust, late": (LOCUST, "llmload.loadgen.terminal", "before the run began: nothing was sent"),
    "run, before Locust": (RUN, "locust.main", "before the run began: nothing was sent"),
    "run, in Locust": (RUN, "llmload.loadgen.terminal", "before the run began: nothing was sent"),
    "run, its own": (RUN, "llmload.cli.run", ""),
    "report": ([*RUN[:3], "report", "nowhere"], "llmload.report.terminal", ""),
    "vram": ([*RUN[:3], "vram", "table"], "llmload.sizing", ""),
    "the verbs": ([*RUN[:3], "scenarios"], "click", ""),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_while_a_command_imports(tmp_path: Path, place: str, number: signal.Signals) -> None:
    command, name, when = PLACES[place]
    (tmp_path / "sitecustomize.py").write_text(SLOW.format(name=name))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=10)

    assert process.returncode == 130, err
    lines = [line for line in err.splitlines() if not line.startswith("$ ")]
    assert lines == [f"llmload: ended by {number.name}{when and ' '}{when}"]


def test_a_signal_between_two_programs_is_not_lost(tmp_path: Path) -> None:
    """`llmload run` becomes Locust: a signal at that moment waits until there is somebody to say so."""
    script = (
        "import os, signal, sys\n"
        "from llmload.interrupts import held\n"
        "with held():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.execv(sys.executable, [sys.executable, '-m', 'llmload.loadgen', '--version'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "llmload: ended by SIGINT before the run began: nothing was sent\n"


def test_ctrl_c_in_the_demo_ends_its_run_and_its_engine(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RUN[:3], "demo", "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 30
    while not [file for file in tmp_path.glob("*/requests.jsonl") if file.stat().st_size]:
        assert time.monotonic() < end, "the demo never measured"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 130, err
    assert "Traceback" not in err + out
    assert err.rstrip().endswith("llmload: interrupted")
    assert "ended_early" in next(tmp_path.glob("*/summary.json")).read_text()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if _group(pid) == process.pid], "nothing is left"


def _group(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[2])
    except OSError:
        return None
