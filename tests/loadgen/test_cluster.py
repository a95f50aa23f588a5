"""The token of master and workers: who has another, or none, is not talked to; it is in no log."""

from collections.abc import Iterator

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from llmload.errors import ConfigError, ExitCode
from llmload.loadgen.cluster import TOKEN_ENV, cluster_token, report_failures, secure, warn_if_open

TOKEN = "0123456789abcdef-a-token"
PATIENCE_MS = 10_000
ENDS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def succeeds(context: zmq.Context[zmq.Socket[bytes]], masters: str | None, workers: str | None) -> bool:
    """Return whether a worker's message reaches a master, each with its token."""
    master, worker = context.socket(zmq.ROUTER), context.socket(zmq.XREQ)
    for socket, token in ((master, masters), (worker, workers)):
        if token is not None:
            secure(socket, token)
    monitors = [socket.get_monitor_socket(ENDS) for socket in (master, worker)]
    worker.connect(f"tcp://127.0.0.1:{master.bind_to_random_port('tcp://127.0.0.1')}")
    worker.send(b"hello")
    poller = zmq.Poller()
    for monitor in monitors:
        poller.register(monitor, zmq.POLLIN)
    [(first, _), *_] = poller.poll(PATIENCE_MS)
    met = bool(recv_monitor_message(first)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED)
    heard = master.poll(PATIENCE_MS if met else 0)
    for each in (*monitors, master, worker):
        each.close(linger=0)
    assert bool(heard) is met
    return met


@pytest.mark.parametrize(
    ("masters", "workers", "meet"),
    [
        (TOKEN, TOKEN, True),
        (None, None, True),
        (TOKEN, f"{TOKEN}.", False),
        (TOKEN, None, False),
        (None, TOKEN, False),
    ],
)
def test_only_who_has_the_same_token_is_talked_to(
    context: zmq.Context[zmq.Socket[bytes]], masters: str | None, workers: str | None, meet: bool
) -> None:
    assert succeeds(context, masters, workers) is meet


def test_a_token_comes_from_the_environment_and_may_end_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    assert cluster_token() is None

    monkeypatch.setenv(TOKEN_ENV, f"{TOKEN}\n")

    assert cluster_token() == TOKEN


@pytest.mark.parametrize("token", ["", " ", "short", "fifteen-letters"])
def test_a_token_that_protects_nothing_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv(TOKEN_ENV, token)

    with pytest.raises(ConfigError, match="has fewer than 16 characters: export") as refused:
        cluster_token()

    assert not token.strip() or token not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "10.0.0.1", "::", "master"])
def test_a_master_that_others_can_reach_without_a_token_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    warn_if_open(host, 5557)
    said = caplog.text
    caplog.clear()
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    warn_if_open(host, 5557)

    assert f"all who reach {host}:5557" in said
    assert TOKEN_ENV in said
    assert not caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_one_that_only_this_machine_can_reach_does_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    monkeypatch.delenv(TOKEN_ENV, raising=False)
    warn_if_open(host, 5557)

    assert not caplog.text


def test_a_worker_whose_master_has_no_token_ends_with_a_line(
    context: zmq.Context[zmq.Socket[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    master, worker = context.socket(zmq.ROUTER), context.socket(zmq.XREQ)
    secure(worker, TOKEN)
    monitor = worker.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
    worker.connect(f"tcp://127.0.0.1:{master.bind_to_random_port('tcp://127.0.0.1')}")
    with pytest.raises(SystemExit) as ended:
        report_failures(monitor, is_worker=True)
    for each in (monitor, worker, master):
        each.close(linger=0)

    assert ended.value.code == ExitCode.WRONG_USE
    assert f"llmload: the master cannot be talked to: it has another {TOKEN_ENV}" in capsys.readouterr().err
