"""A file that cannot be written is named once; the run is watched, judged and counted all the same."""

import gc
import json
import os
import re
import signal
import stat
import time
import weakref
from pathlib import Path

import pytest

from llmload.client.reactor import Reactor, current_reactor
from llmload.client.settings import Stamps
from llmload.loadgen.preparation import open_session
from llmload.loadgen.session import WorkerShard
from llmload.prompts.workload import load as load_prompts
from llmload.record import Outcome, RequestRecord
from llmload.runs.folder import RunFolder
from llmload.runs.requests import RequestLog
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")
ROOT = Path(__file__).parents[2]
FULL_DISK = """
import os
import stat

from locust import events

from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.users import install
from llmload.loadgen.node import node_of
from llmload.loadgen.users import ChatUser

install(events)


class Chat(ChatUser):
    pass


def fill(environment, **_):
    node = node_of(environment)
    if isinstance(node, CoordinatingNode):
        for name in ("users.csv", "manifest.tmp"):
            os.mknod(node.coordinator.folder.path / name, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # as /dev/full


@events.init.add_listener
def watch(environment, **_):
    environment.events.test_start.add_listener(fill)  # after llmload's own listener has made the folder
"""
QUICK = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 4}


def make_full(path: Path) -> None:
    """Make a file that has no room, as /dev/full: a link to that would not be followed."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))


def record(number: int) -> RequestRecord:
    return RequestRecord(
        request_id=f"run-{number}", prompt_id="0", started_ns=1, done_ns=2, outcome=Outcome.FAILED, connected_ns=None
    )


@needs_root
def test_a_master_whose_disk_is_full_still_sees_its_workers_and_figures(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    locustfile = tmp_path / "full.py"
    locustfile.write_text(FULL_DISK)
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 14", "[prompts]\nrepeat = true")
    scenario.write_text(scenario.read_text().replace(f"{ROOT}/locustfiles/chat.py", str(locustfile)))

    process = locust.start("--config", str(scenario), "--headless", "--processes", "2", "--progress", "1")
    end = time.monotonic() + 30
    while len([file for file in locust.out.glob("*/requests.worker-*.jsonl") if file.stat().st_size]) < 2:
        assert time.monotonic() < end, "two workers never wrote a record"
        time.sleep(0.1)
    time.sleep(4)  # after more than one sample on the full disk
    os.kill(int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]), signal.SIGKILL)
    ended = locust.finish(process)

    reasons = {reason["check"]: reason["figure"] for reason in ended.summary["verdict"]["reasons"]}
    assert ended.code == 3, ended.err
    assert reasons["missing_workers"] == 1
    assert len(re.findall(r"users\.csv cannot be written: No space left on device", ended.err)) == 1
    assert len(re.findall(r"manifest\.json cannot be written: No space left on device", ended.err)) == 1
    assert "Traceback" not in ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("test: ")]
    assert re.search(r"; [\d,.]+ requests/min", lines[-1]), "live points are still made"


@needs_root
def test_files_of_a_run_that_cannot_be_written_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    make_full(tmp_path / "users.csv")
    make_full(tmp_path / "requests.jsonl")
    log = RequestLog(tmp_path / "requests.jsonl", with_chunks=False)

    for number in range(3):
        folder.append_users(1.0, number)
        log.append([record(number)])
    log.close()

    assert [line.split(":")[0] for line in caplog.messages] == [
        f"{tmp_path / 'users.csv'} cannot be written",
        f"{tmp_path / 'requests.jsonl'} cannot be written",
    ]


def test_a_line_that_was_written_in_part_is_completed_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, write = RequestLog(tmp_path / "requests.jsonl", with_chunks=False), os.write
    log.append([record(0)])

    def write_a_part(file: int, content: bytes) -> int:
        monkeypatch.setattr(os, "write", fail)
        return write(file, content[:9])

    def fail(file: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write_a_part)
    log.append([record(1)])
    assert (tmp_path / "requests.jsonl").read_bytes().count(b"\n") == 1
    assert (tmp_path / "requests.jsonl").read_bytes().endswith(b"\n"), "the part is taken back meanwhile"
    assert log.lost == {"No space left on device": 1}
    monkeypatch.setattr(os, "write", write)
    log.append([record(2)])
    log.close()

    assert not log.lost
    written = [json.loads(line)["request_id"] for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert written == ["run-0", "run-1", "run-2"]


class Cycle:
    """Refers to itself, as sessions and their clients do."""

    def __init__(self) -> None:
        self.itself = self


def test_what_a_run_left_behind_is_collected_when_the_next_one_starts(tmp_path: Path) -> None:
    file, thresholds = find_scenario("demo"), gc.get_threshold()
    scenario = load_scenario(file, {"run.folder": str(tmp_path)})
    workload = load_prompts(scenario.prompt_plan(), file.parent)
    try:
        left = Cycle()
        gone = weakref.ref(left)
        open_session(scenario, workload, WorkerShard(index=0, count=1), "first").close()
        del left
        open_session(scenario, workload, WorkerShard(index=0, count=1), "second").close()
        assert gone() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_what_a_client_sends_with_is_made_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def noted(stamps: Stamps) -> Reactor:
        made.append(stamps)
        return current_reactor(stamps)

    monkeypatch.setattr("llmload.client.client.current_reactor", noted)
    file, thresholds = find_scenario("demo"), gc.get_threshold()
    scenario = load_scenario(file, {"run.folder": str(tmp_path), "client.stamps": "user"})
    try:
        workload = load_prompts(scenario.prompt_plan(), file.parent)
        open_session(scenario, workload, WorkerShard(index=0, count=1), "run").close()
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    assert made == ["user"]
