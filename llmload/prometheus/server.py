"""The WSGI application that serves a run's series, and a server for it where there is no web UI."""

import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from llmload.prometheus.export import exposition
from llmload.prometheus.families import Snapshot

PATH: Final = "/metrics"
_DELIVERY_S: Final = 0.2
"""Time for the scraper to read a written answer before the process ends."""


def wsgi_app(snapshot: Callable[[], Snapshot]) -> Any:
    """
    Return a WSGI application that takes a snapshot at each request and answers with its series.

    The answer is not compressed, which would block a busy process for longer.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            start_response(_status_line(HTTPStatus.METHOD_NOT_ALLOWED), [("Allow", "GET, HEAD")])
            return [b""]
        body, content_type = exposition(snapshot(), environ.get("HTTP_ACCEPT", ""))
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        start_response(_status_line(HTTPStatus.OK), headers)
        return [body if environ["REQUEST_METHOD"] == "GET" else b""]

    return answer


def _status_line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


class MetricsServer:
    """
    Serves a WSGI application at `/metrics` from its construction to `close`; OSError if it cannot listen.

    Its threads are greenlets, since Locust has patched the standard library.
    """

    def __init__(self, app: Any, host: str, port: int, ended: Callable[[], bool] = lambda: False) -> None:
        """Start to serve; `ended` returns whether the run has ended, so that the series are final."""
        self._app, self._ended = app, ended
        self._seen_after_end = threading.Event()
        self._server = _Server((host, port), _SilentHandler)
        self._server.set_app(self._answer)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it listens on, also if 0 was given."""
        return int(self._server.server_port)

    def linger(self, at_most_s: float) -> bool:
        """Wait until a scrape that began after the run's end has been answered; False if none came in time."""
        seen = self._seen_after_end.wait(at_most_s)
        if seen:
            threading.Event().wait(_DELIVERY_S)
        return seen

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response(_status_line(HTTPStatus.NOT_FOUND), [("Content-Type", "text/plain")])
            yield f"The series are at {PATH}\n".encode()
            return
        is_final = self._ended() and environ["REQUEST_METHOD"] == "GET"
        yield from self._app(environ, start_response)
        if is_final:  # the server asks for the next piece once it has written this one
            self._seen_after_end.set()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without the name lookup of the standard library, which may wait for a name server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment] # an address of AF_INET
        self.setup_environ()


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing: one line per scrape would bury the run's own lines."""
