"""A worker that speaks Locust's protocol and lies: it is put out and named, and the run is INVALID."""

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from llmload.loadgen.cluster import TOKEN_ENV, secure
from llmload.loadgen.messages import Started, Totals, WorkerPlan
from llmload.metrics.totals import RunTotals
from llmload.scenario.reading import free_port
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

LIAR = "liar_0123456789abcdef"
TOKEN = "a token for this test alone"
PATIENCE_MS = 20_000


class ScriptedWorker:
    """A socket that says what the test has it say."""

    def __init__(self, port: str, token: str = TOKEN) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.XREQ)
        self._socket.setsockopt(zmq.IDENTITY, LIAR.encode())
        secure(self._socket, token)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def say(self, kind: str, data: Any = None) -> None:
        self.send(msgpack.dumps((kind, data, LIAR)))

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def hear(self, kind: str) -> Any:
        """Return the data of the next message of a kind."""
        while self._socket.poll(PATIENCE_MS):
            got, data, _ = msgpack.loads(self._socket.recv(), strict_map_key=False)
            if got == kind:
                return data
        pytest.fail(f"the master said no {kind}")

    def join_run(self) -> str:
        """Start users as a worker does, and return the run's id."""
        self.say("client_ready", "2.0")
        run_id: str = self.hear(WorkerPlan.name)["run_id"]
        users = self.hear("spawn")["user_classes_count"]
        self.say("spawning")
        self.say("spawning_complete", {"user_classes_count": users, "user_count": sum(users.values())})
        self.hear("spawning_complete")
        self.say(Started.name, Started(run_id=run_id).to_wire())
        return run_id

    def close(self) -> None:
        self._socket.close(linger=0)


@pytest.fixture
def port() -> str:
    return str(free_port())


@pytest.fixture
def worker(port: str) -> Iterator[ScriptedWorker]:
    worker = ScriptedWorker(port)
    yield worker
    worker.close()


def test_a_worker_that_lies_is_put_out_and_named_and_the_run_is_invalid(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, port: str, worker: ScriptedWorker
) -> None:
    """Before it does, a stranger sends what deafened the master; after, nobody is left, and so the run ends."""
    scenario = write_scenario(engine().url, "users = 4\nduration_s = 60", "[prompts]\nrepeat = true")
    master = locust.start(
        *("--config", str(scenario), "--headless", "--metrics-port", "off"),
        *("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", "1"),
        env={TOKEN_ENV: TOKEN},
    )
    stranger = ScriptedWorker(port, token="another token, of another run")
    stranger.say("client_ready", "2.0")
    worker.send(b"\xc1")
    worker.send(b"", b"\x93\x01", b"")
    worker.say("heartbeat", {"state": "ready"})

    run_id = worker.join_run()
    for started in (4, 3):
        report = Totals.pack(run_id, RunTotals(started=started).to_message(), {})
        worker.say(Totals.name, report.to_wire())
    worker.hear("quit")
    ended = locust.finish(master)
    stranger.close()

    reasons = ended.summary["verdict"]["reasons"]
    assert ended.code == 3, ended.err
    assert f"llmload: worker {LIAR} was put out: llmload_totals: started was 4, and is 3" in ended.err
    assert [reason["check"] for reason in reasons][:2] == ["rejected_workers", "missing_workers"]
    assert LIAR in reasons[0]["text"]
    assert ended.summary["requests"]["started"] == ended.summary["requests"]["censored"] == 4
    assert "ignored a message from" in ended.err
    assert f"a worker cannot be talked to: it has another {TOKEN_ENV}" in ended.err
    assert TOKEN not in ended.err + ended.out
    assert all(TOKEN.encode() not in file.read_bytes() for file in ended.folder.iterdir())
    assert "Traceback" not in ended.err
