"""The metrics server: its paths, and how long it serves after a run."""

import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from llmload.loadgen.web.guard import AllowedHosts, OriginGuard
from llmload.prometheus.export import MetricsServer, wsgi_app
from llmload.prometheus.families import Snapshot

LABELS = {"engine": "vLLM", "model": "m", "scenario": "s"}


@pytest.fixture
def ended() -> list[bool]:
    return []


@pytest.fixture
def server(ended: list[bool]) -> Iterator[MetricsServer]:
    app, hosts = wsgi_app(lambda: Snapshot(labels=LABELS)), AllowedHosts("127.0.0.1", "load.example.com")
    served = MetricsServer(
        app, "127.0.0.1", 0, ended=lambda: bool(ended), before=lambda served: OriginGuard(served, hosts)
    )
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


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/"])
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Host": "127.0.0.1"}, True),
        ({"Host": "localhost:9646"}, True),
        ({"Host": "load.example.com:9646"}, True),
        ({"Host": "evil.example"}, False),
        ({"Host": "127.0.0.1", "Origin": "http://evil.example"}, False),
        ({"Host": "127.0.0.1", "Origin": "null"}, False),
        ({"Host": "127.0.0.1", "Sec-Fetch-Site": "cross-site"}, False),
    ],
)
def test_only_whom_it_serves_gets_an_answer(
    server: MetricsServer, ended: list[bool], headers: dict[str, str], allowed: bool, method: str, path: str
) -> None:
    ended.append(True)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()

    expected = 404 if path == "/" else 200 if method in {"GET", "HEAD"} else 405
    assert answer.status == (expected if allowed else 403)
    assert ("Access-Control-Allow-Origin" in answer.headers, answer.headers["X-Frame-Options"]) == (False, "SAMEORIGIN")
    assert (b"llmload_requests_total" in body) is (allowed and method == "GET" and path == "/metrics")
    assert server.linger(0.01) is (b"llmload_requests_total" in body), "a refused scrape has seen nothing"


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
