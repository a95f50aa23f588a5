"""Whole suites through the command line: simulated engines as local processes, real Locust, real signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.trials.suite import SuiteTrial, descendants, until
from llmload.cli.main import main
from llmload.simulator import SimulationSettings, spawn
from tests.suite.conftest import WriteSuite


@dataclass
class Suites:
    """Starts `llmload suite` in a new folder."""

    folder: Path
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def start(self, *arguments: object, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "llmload.cli.main", "suite", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        process = self.start(*arguments, env=env)
        out, err = process.communicate(timeout=180)
        assert "Traceback" not in out + err
        return process.returncode, out, err

    def planned(self, *arguments: object) -> tuple[int, str, str]:
        """Run a command that starts nothing, in this process."""
        with chdir(self.folder):
            said = CliRunner().invoke(main, ["suite", *map(str, arguments)])
        return said.exit_code, said.stdout, said.stderr

    @property
    def cells(self) -> dict[str, Any]:
        file = self.folder / "suites" / "sim" / "state.json"
        return dict(json.loads(file.read_text())["cells"]) if file.exists() else {}


@pytest.fixture
def suites(tmp_path: Path) -> Iterator[Suites]:
    suites = Suites(tmp_path)
    yield suites
    for process in suites.started:  # what a failed test left running
        if process.poll() is None:
            process.terminate()
            process.communicate()


BROKEN = """
[engines.broken]
engine = "simulated"
options = ["--no-such-flag"]
"""
NEVER = """
[engines.never]
engine = "simulated"
stop_grace_s = 1
command = ["sh", "-c", "echo loading weights; sleep 987"]
"""


def test_a_failed_cell_is_named_with_its_reason_and_the_others_are_measured(
    suites: Suites, write_suite: WriteSuite
) -> None:
    sized = '[models.one]\ncatalogue = "vicuna-7b-v1.3"\ngpus = 1\nprecision = "fp16"'
    warm = 'warmup_requests = 1\ngpu = "A100-SXM4-80GB"'
    file = write_suite(("warmup_requests = 0", warm), ("[models.one]", sized), further=BROKEN)

    code, out, err = suites.run(file)

    status = suites.cells["quick/one/speed"]["status"]
    assert status in {"good", "invalid"}, err  # a busy machine's figures may be INVALID
    assert code == {"good": 1, "invalid": 3}[status]
    assert "quick/one: ready at http://127.0.0.1:" in err
    assert "| one    |" in out or "one    |" in out
    assert (
        "- broken/one/speed: failed: the engine ended with exit code 2 before it answered; the last lines of "
        "suites/sim/logs/broken/one/engine.log:\n      Error: No such option '--no-such-flag'."
    ) in out
    run = suites.folder / "suites" / "sim" / suites.cells["quick/one/speed"]["run_folder"]
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["scenario"]["deployment"]["command"].endswith("--output-tokens 8 --itl-load-factor 0")
    assert json.loads((run / "summary.json").read_text())["requests"]["completed"] == 3
    assert (suites.folder / "suites" / "sim" / "suite.md").read_text() in out

    again, out_again, err_again = suites.run(file, "--json")

    assert (again, err_again) == (code, "2 of 2 cells are done already, 0 to go\n")
    found = {cell["cell"]: cell for cell in json.loads(out_again)["cells"]}
    assert found["broken/one/speed"]["value"] is None
    assert found["quick/one/speed"]["value"] > 0
    assert found["quick/one/speed"]["requests"] == 3
    assert found["quick/one/speed"]["engine_version"] is not None
    assert found["quick/one/speed"]["mbu"] == pytest.approx(found["quick/one/speed"]["value"] / 154.1, rel=0.01)


def test_a_killed_suite_leaves_no_process_and_continues_with_the_cells_left(
    write_suite: WriteSuite, tmp_path: Path
) -> None:
    held = '["prompts.source=builtin", "load.users=2", "load.duration_s=3", "load.warmup_s=0.5"]'
    further = "".join(
        f'[protocols.{name}]\nscenario = "lima-throughput"\nset = {held}\n' for name in ("killed", "failed")
    )
    trial = SuiteTrial(write_suite(further=further), tmp_path / "suite")

    trial.killed_and_resumed("quick/one/killed", "quick/one/failed")

    assert all(trial.checks.values()), trial.checks


def test_an_engine_that_is_never_ready_fails_with_its_last_lines(suites: Suites, write_suite: WriteSuite) -> None:
    text = NEVER.replace("command", "ready_timeout_s = 1\ncommand")

    code, out, _ = suites.run(write_suite(further=text), "--only", "never")

    assert code == 1
    assert "no engine was ready at http://127.0.0.1:" in out
    assert "within 1 s; the last lines of suites/sim/logs/never/one/engine.log:\n      loading weights" in out
    assert "quick/one/speed" in out


def test_an_engine_that_dies_before_the_first_measurement_is_started_once(
    suites: Suites, write_suite: WriteSuite
) -> None:
    """One that answers, and is gone when the measurement should begin."""
    answer = (
        "import http.server as h, os, sys\n"
        "class Once(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()\n"
        "        if self.path == '/info': os._exit(7)\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), Once).serve_forever()\n"
    )
    (suites.folder / "once.py").write_text(answer)
    further = '[engines.once]\nengine = "other"\ncommand = ["{python}", "once.py", "{port}"]\n'

    code, out, _ = suites.run(write_suite(further=further), "--only", "once")

    assert code == 1
    assert "once/one/speed: failed:" in out
    assert "does not answer" in out or "before anything was measured, the engine ended with exit code 7" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_every_end_of_a_suite_ends_its_processes(
    suites: Suites, write_suite: WriteSuite, number: signal.Signals
) -> None:
    process = suites.start(write_suite(further=NEVER), "--only", "never")
    assert until(lambda: "loading" in read(suites.folder / "suites/sim/logs/never/one/engine.log"))
    below = descendants(process.pid)
    assert len(below) >= 3, "a guard, a shell, what it runs"

    process.send_signal(number)
    _, err = process.communicate(timeout=60)

    assert until(lambda: not below & {key for key in below if (Path("/proc") / str(key[0])).exists()})
    if number is signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130
        assert "stopped, with everything it had started: 0 of 2 cells are done" in err
        assert f"continue with: llmload suite {suites.folder / 'x-suite.toml'} --only never" in err


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_a_second_suite_in_the_same_folder_is_refused(suites: Suites, write_suite: WriteSuite) -> None:
    file = write_suite(further=NEVER)
    first = suites.start(file, "--only", "never")
    assert until(lambda: read(suites.folder / "suites/sim/logs/never/one/engine.log") != "")

    code, _, err = suites.run(file, "--only", "never")

    assert (code, first.poll()) == (2, None)
    assert err == "llmload: suites/sim: another llmload suite is running in this folder; wait for it, or stop it\n"


def test_failed_cells_are_measured_again_only_with_retry_failed(suites: Suites, write_suite: WriteSuite) -> None:
    file = write_suite(further=BROKEN + 'command = ["false"]\n')  # gone at once
    begun = []
    for arguments in ([], [], ["--retry-failed"], ["--restart"]):
        code, _, _ = suites.run(file, "--only", "broken", *arguments)
        assert code == 1
        begun.append(suites.cells["broken/one/speed"]["started_unix_s"])

    assert begun[0] == begun[1] < begun[2] < begun[3]


def test_a_name_that_the_suite_does_not_have_is_refused(suites: Suites, write_suite: WriteSuite) -> None:
    code, _, err = suites.planned(write_suite(further=BROKEN), "--only", "borken")

    assert (code, err) == (2, "llmload: --only: 'borken' matches no engine/model/protocol of this suite\n")


def test_a_dry_run_prints_every_command_and_starts_nothing(suites: Suites, write_suite: WriteSuite) -> None:
    code, out, err = suites.planned(write_suite(further=BROKEN), "--dry-run")

    assert (code, err) == (0, "")
    assert "engine simulate --model one --host 127.0.0.1 --port PORT --no-such-flag" in out
    assert out.count("--config") == 2
    assert not (suites.folder / "suites").exists()


def test_a_wrong_file_starts_nothing(suites: Suites, write_suite: WriteSuite) -> None:
    file = write_suite(("[models.one]", "[models.one]\ngpu = 1"))

    code, out, err = suites.planned(file)

    assert (code, out) == (2, "")
    assert err == f"llmload: {file}: models.one.gpu: unknown key (value 1); did you mean gpus?\n"
    assert not (suites.folder / "suites").exists()


def test_a_port_in_use_fails_the_cell(suites: Suites, write_suite: WriteSuite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, _ = suites.run(write_suite(("options", f"port = {port}\noptions")))

    assert code == 1
    assert f"failed: engines.quick.port: {port} cannot be used: Address already in use" in out


@pytest.mark.parametrize(
    ("served", "further", "says"),
    [
        ("other", "", "serves other, not 'one'"),
        ("one", 'version = "9.9"', "reports version 0.1.0, not 9.9 (engines.quick.version)"),
    ],
)
def test_an_engine_that_is_running_already_is_checked(
    suites: Suites, write_suite: WriteSuite, served: str, further: str, says: str
) -> None:
    with spawn(SimulationSettings(model=served)) as engine:
        options = 'options = ["--ttft-s", "0.01", "--itl-s", "0.01", "--output-tokens", "8", "--itl-load-factor", "0"]'
        running = f'kind = "running"\nurl = "{engine.url}"\n{further}'
        code, out, _ = suites.run(write_suite((options, running)))

    assert code == 1
    assert f"failed: the engine at {engine.url} {says}" in out


DOCKER = """#!/bin/sh
# A stand-in for docker: it runs what follows the image as a process, and stops it by its name.
echo "$@" >> "$LLMLOAD_TEST_DOCKER/calls"
case "$1" in
run)
    while [ "$1" != IMAGE ]; do [ "$1" = --name ] && name=$2; shift; done; shift
    setsid sh -c 'echo $$ > '"$LLMLOAD_TEST_DOCKER/$name"'; exec "$@"' sh "$@" &
    trap '' TERM; wait ;;
stop) kill "$(cat "$LLMLOAD_TEST_DOCKER/$4")" ;;
esac
"""


def test_a_container_is_started_stopped_and_its_leftovers_are_removed(
    suites: Suites, write_suite: WriteSuite, tmp_path: Path
) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    further = """
[engines.boxed]
engine = "other"
kind = "docker"
image = "IMAGE"
ready_timeout_s = 0.5
command = ["sleep", "986"]
"""
    env = {"PATH": f"{docker.parent}:{os.environ['PATH']}", "LLMLOAD_TEST_DOCKER": str(tmp_path)}

    code, out, _ = suites.run(write_suite(further=further), "--only", "boxed", env=env)

    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    name = calls[0][-1]
    assert (code, "no engine was ready" in out) == (1, True)
    assert [call[0] for call in calls] == ["rm", "run", "stop"]
    assert calls[1][calls[1].index("--name") + 1] == calls[2][-1] == name
    pid = int((tmp_path / name).read_text())
    assert until(lambda: not (Path("/proc") / str(pid)).exists())


class Refusing(BaseHTTPRequestHandler):
    """An engine that is up, and answers every chat with an error."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error": {"message": "out of memory"}}'
        self.send_response(500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_failed_warm_up_fails_the_cells_with_the_engines_message(suites: Suites, write_suite: WriteSuite) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        further = f'[engines.refusing]\nengine = "other"\nkind = "running"\nurl = "{url}"\n'
        file = write_suite(("warmup_requests = 0", "warmup_requests = 2"), further=further)
        begun = time.monotonic()
        code, out, _ = suites.run(file, "--only", "refusing")
        server.shutdown()

    assert code == 1, time.monotonic() - begun
    assert "refusing/one/speed: failed: warm-up: 2 of 2 requests failed: http_5xx 2; the most frequent: " in out
    assert "out of memory" in out
