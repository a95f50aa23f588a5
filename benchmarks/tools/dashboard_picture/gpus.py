"""A page in the form of DCGM's exporter, of two GPUs that are made up: they follow the requests that an engine runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

GPUS: Final = 2
_RUNNING: Final = "vllm:num_requests_running"
_IDLE_AND_PER_REQUEST: Final = {
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": (0.02, 0.045),
    "DCGM_FI_PROF_NVLINK_TX_BYTES": (0.0, 2.6e8),
    "DCGM_FI_PROF_NVLINK_RX_BYTES": (0.0, 2.4e8),
    "DCGM_FI_DEV_FB_USED": (70_600, 40),
    "DCGM_FI_DEV_POWER_USAGE": (72, 26),
}
"""Of each field: its value without a request, and what each running request adds."""


def page(running: float) -> str:
    """Return the exporter's page while that many requests run; the GPUs differ by 3 % of their load."""
    return "".join(
        f'{name}{{gpu="{gpu}"}} {idle + per_request * running * (1 - 0.03 * gpu)}\n'
        for name, (idle, per_request) in _IDLE_AND_PER_REQUEST.items()
        for gpu in range(GPUS)
    )


def running_requests(metrics_url: str) -> float:
    """Return the requests that the engine says it runs."""
    with urlopen(metrics_url, timeout=5) as answer:  # noqa: S310 - the simulated engine's own address
        text = answer.read().decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == _RUNNING)


@contextmanager
def made_up_gpus(engine_url: str) -> Iterator[str]:
    """Serve the page on a free port until the context ends; yields host and port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page(running_requests(f"{engine_url}/metrics")).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
