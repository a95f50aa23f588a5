"""An idle process that serves metrics like a master: `benchmarks.trials.exporter` measures its CPU time a scrape."""

from gevent import monkey

monkey.patch_all()  # as Locust does, before anything else is imported

import threading  # noqa: E402

from benchmarks.trials.exporter import busy_snapshot  # noqa: E402
from llmload.prometheus.export import MetricsServer, wsgi_app  # noqa: E402


def main() -> None:
    """Print the port, and serve until killed."""
    server = MetricsServer(wsgi_app(busy_snapshot()), "127.0.0.1", 0)
    print(server.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
