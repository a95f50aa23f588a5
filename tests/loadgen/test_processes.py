"""Runs with `--processes`: each has its own port, and no worker outlives the process that forked it."""

import socket
from collections.abc import Iterator

import pytest

from llmload.loadgen.cluster import TOKEN_ENV
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

QUICK = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 4}
ENDS_S = 20.0
"""A refused run is over well before this; the pipes of its output stay open as long as one of its workers lives."""


@pytest.fixture
def taken() -> Iterator[str]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@pytest.mark.parametrize(
    ("load", "further", "said"),
    [
        ("users = 1\nrequests = 4", [], "load.users = 1 is fewer than the 2 workers"),
        ("users = 4\nrequests = 8", ["--host", "http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer"),
        ("users = 4\nrequests = 8", ["--master-bind-port", "TAKEN"], "perhaps by another master"),
        ("users = 4\nrequests = 8", ["--master-bind-port", "0"], "--master-bind-port 0: is not a port number"),
    ],
    ids=["too few users", "no engine", "port of the master", "no port"],
)
def test_a_run_that_is_refused_leaves_no_worker_behind(
    engine: StartEngine,
    locust: Locust,
    write_scenario: WriteScenario,
    taken: str,
    load: str,
    further: list[str],
    said: str,
) -> None:
    scenario = write_scenario(engine(**QUICK).url, load, "[prompts]\nrepeat = true")
    further = [each.replace("TAKEN", taken) for each in further]

    process = locust.start("--config", str(scenario), "--headless", "--processes", "2", *further)
    ended = locust.finish(process, ENDS_S)

    assert ended.code == 2, ended.err
    [line] = [line for line in ended.err.splitlines() if line.startswith("llmload: ")]
    assert said in line
    assert "Traceback" not in ended.err


def test_two_runs_at_once_do_not_share_workers(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nrequests = 40", "[prompts]\nrepeat = true")
    arguments = ("--config", str(scenario), "--headless", "--processes", "2", "--metrics-port", "off")

    both = [locust.start(*arguments, env={TOKEN_ENV: "one token for both runs"}) for _ in range(2)]
    codes = [locust.finish(process).code for process in both]

    assert codes == [0, 0]
    files = [file for folder in locust.out.iterdir() for file in folder.glob("requests.worker-*.jsonl")]
    assert [len(file.read_text().splitlines()) for file in files] == [20] * 4
