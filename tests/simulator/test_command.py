"""The engine as a command, as a process of a program, and inside a thread."""

import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.errors import EngineError
from llmload.simulator import SimulatedEngine, SimulationSettings, spawn

COMMAND = [sys.executable, "-c", "from llmload.cli.engine import engine; engine()", "simulate"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_listens_and_stops_cleanly(number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.removeprefix("simulated engine ready at http://").strip()
        connection = http.client.HTTPConnection(url, timeout=5)
        connection.request("GET", "/version")
        version = json.loads(connection.getresponse().read())
        process.send_signal(number)
        rest, errors = process.communicate(timeout=5)
        connection.close()

    assert version["engine"] == "llmload simulated engine"
    assert (process.returncode, rest, errors) == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--slots", "0"], "slots = 0"),
        (["--slots", "many"], "'many'"),
        (["--fault", "fire=0.1"], "'fire'"),
        (["--fault", "reset"], "'reset'"),
        (["--api-key-env", "LLMLOAD_TEST_NO_SUCH_KEY"], "LLMLOAD_TEST_NO_SUCH_KEY"),
        (["--log", "/no/such/folder/truth.jsonl"], "/no/such/folder/truth.jsonl"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_status_2(flags: list[str], named: str) -> None:
    ended = CliRunner().invoke(main, ["engine", "simulate", "--port", "0", *flags])

    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert named in ended.stderr


def test_help_states_the_formulas_and_lists_the_faults() -> None:
    help_text = CliRunner().invoke(main, ["engine", "simulate", "--help"]).stdout

    assert "ttft-s + prompt tokens * prefill-s-per-token" in help_text
    assert "itl-s * (1 + itl-load-factor * (running - 1) / slots)" in help_text
    assert "malformed_chunk" in help_text


def test_a_spawned_engine_ends_with_the_pipe_of_its_parent() -> None:
    engine = spawn(SimulationSettings())
    assert engine.process.stdin is not None
    engine.process.stdin.close()
    assert engine.process.wait(timeout=5) == 0
    engine.stop()


def test_an_address_in_use_is_an_engine_error() -> None:
    with spawn(SimulationSettings()) as engine, pytest.raises(EngineError, match=str(engine.port)):
        spawn(SimulationSettings(port=engine.port))


def run_in_an_unpatched_process(name: str) -> None:
    """Call a function of this module where gevent has patched nothing: other tests may have imported Locust here."""
    program = f"import runpy; runpy.run_path({__file__!r})[{name!r}]()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def runs_in_a_thread_and_leaves_nothing_open() -> None:
    before = open_files()
    with SimulatedEngine(SimulationSettings(ttft_s=0.0, output_tokens=2)) as engine:
        connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=5)
        connection.request("POST", "/v1/completions", '{"prompt": "x"}')
        answer = json.loads(connection.getresponse().read())
        connection.close()

    assert answer["usage"]["completion_tokens"] == 2
    assert open_files() == before


def cannot_listen_and_raises_in_its_caller() -> None:
    with SimulatedEngine(SimulationSettings()) as engine, pytest.raises(EngineError):
        SimulatedEngine(SimulationSettings(port=engine.port)).__enter__()


def test_an_engine_runs_in_a_thread_and_leaves_nothing_open() -> None:
    run_in_an_unpatched_process("runs_in_a_thread_and_leaves_nothing_open")


def test_a_thread_that_cannot_listen_raises_in_its_caller() -> None:
    run_in_an_unpatched_process("cannot_listen_and_raises_in_its_caller")
