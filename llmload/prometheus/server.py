"""An address of its own for the series, so that a headless run can be scraped too."""

import threading
from collections.abc import Callable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

PATH: Final = "/metrics"
_DELIVERY_S: Final = 0.2
"""How long an answer that was written may take to be read before the process ends."""


class MetricsServer:
    """
    Serves a WSGI application at `/metrics` from its making to `close`; OSError if it cannot listen there.

    Its threads are Locust's greenlets, since Locust has patched the standard library.
    """

    def __init__(self, app: Any, host: str, port: int, ended: Callable[[], bool] = lambda: False) -> None:
        """Serve; `ended` says whether what is served changes no more."""
        self._app, self._ended = app, ended
        self._seen_after_end = threading.Event()
        self._server = _Server((host, port), _SilentHandler)
        self._server.set_app(self._answer)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """The port, also where 0 was asked for."""
        return int(self._server.server_port)

    def linger(self, at_most_s: float) -> bool:
        """Wait until a scrape that began after the end has been answered; False if none came in time."""
        seen = self._seen_after_end.wait(at_most_s)
        if seen:
            threading.Event().wait(_DELIVERY_S)
        return seen

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [f"The series are at {PATH}\n".encode()]
        counts = self._ended() and environ["REQUEST_METHOD"] == "GET"
        return _Answer(self._app(environ, start_response), self._seen_after_end if counts else None)


class _Answer(list[bytes]):
    """The answer's body, which says when it has been written."""

    def __init__(self, pieces: list[bytes], written: threading.Event | None) -> None:
        super().__init__(pieces)
        self._written = written

    def close(self) -> None:
        """Called by the server when the body has been written."""
        if self._written is not None:
            self._written.set()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking a name server what this machine is called, as the standard library does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment] # an address of AF_INET
        self.setup_environ()


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: a line a scrape would bury the run's own."""
