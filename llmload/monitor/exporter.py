"""A run's totals as Prometheus series, translated when scraped and never before."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from prometheus_client.exposition import choose_encoder

from llmload.monitor.exposition_text import END
from llmload.monitor.families import COMMON_LABELS, Snapshot
from llmload.monitor.family_text import family_text
from llmload.monitor.histogram_text import histogram_text

_OPEN_METRICS: Final = "application/openmetrics-text"


def exposition(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """Return every series of a moment, and the content type, in the format that the header `Accept` asks for."""
    _, content_type = choose_encoder(accept)
    open_metrics = content_type.startswith(_OPEN_METRICS)
    labels = {name: snapshot.labels[name] for name in COMMON_LABELS}
    histograms = histogram_text(labels, snapshot.totals, snapshot.slo, open_metrics=open_metrics)
    return f"{family_text(snapshot, accept)}{histograms}{END if open_metrics else ''}".encode(), content_type


def wsgi_app(snapshot: Callable[[], Snapshot]) -> Any:
    """
    Return a WSGI application that asks for a snapshot when it is asked, and answers with the series.

    Uncompressed, which blocks a busy process less.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            start_response(_line(HTTPStatus.METHOD_NOT_ALLOWED), [("Allow", "GET, HEAD")])
            return [b""]
        body, content_type = exposition(snapshot(), environ.get("HTTP_ACCEPT", ""))
        start_response(_line(HTTPStatus.OK), [("Content-Type", content_type)])
        return [body if environ["REQUEST_METHOD"] == "GET" else b""]

    return answer


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"
