"""The metrics server: its paths, and how long it serves after a run."""

import threading
import time
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from llmload.prometheus.export import MetricsServer, wsgi_app
from llmload.prometheus.families import Snapshot

LABELS = {"engine": "vLLM", "model": "m", "scenario": "s"}


@pytest.fixture
def ended() -> list[bool]:
    return []


@pytest.fixture
def server(ended: list[bool]) -> Iterator[MetricsServer]:
    app = wsgi_app(lambda: Snapshot(labels=LABELS))
    served = MetricsServer(app, "127.0.0.1", 0, ended=lambda: bool(ended))
    yield served
    served.close()


def get(server: MetricsServer, path: str = "/metrics") -> str:
    with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def test_metrics_are_at_their_path_and_other_paths_are_404(server: MetricsServer) -> None:
    assert "llmload_requests_total" in get(server)
    with pytest.raises(HTTPError) as refused:
        get(server, "/")
    with refused.value as answer:
        assert (answer.code, b"/metrics" in answer.read()) == (404, True)


def test_a_port_in_use_is_an_os_error(server: MetricsServer) -> None:
    with pytest.raises(OSError, match="in use"):
        MetricsServer(wsgi_app(lambda: Snapshot(labels=LABELS)), "127.0.0.1", server.port)


def test_lingering_ends_with_the_first_scrape_that_began_after_the_end(
    server: MetricsServer, ended: list[bool]
) -> None:
    get(server)
    ended.append(True)
    late = threading.Timer(0.4, get, [server])
    late.start()
    began_s = time.monotonic()

    assert server.linger(10.0)
    assert 0.4 <= time.monotonic() - began_s < 5
    late.join()


def test_a_scrape_between_the_end_and_the_lingering_is_enough(server: MetricsServer, ended: list[bool]) -> None:
    ended.append(True)
    get(server)

    assert server.linger(5.0)


def test_lingering_without_a_scrape_ends_at_its_limit(server: MetricsServer, ended: list[bool]) -> None:
    get(server)
    ended.append(True)

    assert not server.linger(0.3)
