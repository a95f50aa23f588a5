"""A run's totals as Prometheus series, translated when scraped and never before."""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from llmload.monitor.families import COMMON_LABELS, FAMILIES, INFO_LABELS, RUN_INFO, RUN_INFO_TEXT, Family, Snapshot
from llmload.monitor.histogram_text import histogram_text

_FAMILY_OF: Final[dict[str, Any]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
_OPEN_METRICS: Final = "application/openmetrics-text"
_END: Final = b"# EOF\n"


def exposition(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """Return every series of a moment, and the content type, in the format that the header `Accept` asks for."""
    encode, content_type = choose_encoder(accept)
    open_metrics = content_type.startswith(_OPEN_METRICS)
    labels = {name: snapshot.labels[name] for name in COMMON_LABELS}
    simple = encode(_Simple(snapshot)).removesuffix(_END)
    histograms = histogram_text(labels, snapshot.totals, snapshot.slo, open_metrics=open_metrics)
    return simple + histograms.encode() + (_END if open_metrics else b""), content_type


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


class _Simple(Collector):
    """Counters, gauges and the run's description; those of nothing yet stand at 0."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Every family of this moment."""
        common = [self._snapshot.labels[name] for name in COMMON_LABELS]
        for family in FAMILIES:
            yield _simple(family, self._snapshot, common)
        yield _run_info(self._snapshot)


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


def _simple(family: Family, snapshot: Snapshot, common: list[str]) -> Metric:
    names = (*COMMON_LABELS, family.label) if family.label else COMMON_LABELS
    metric: CounterMetricFamily | GaugeMetricFamily = _FAMILY_OF[family.kind](family.name, family.text, labels=names)
    for value, figure in family.read(snapshot).items():
        metric.add_metric([*common, value] if family.label else common, figure)
    return metric


def _run_info(snapshot: Snapshot) -> Metric:
    metric = GaugeMetricFamily(RUN_INFO, RUN_INFO_TEXT, labels=INFO_LABELS)
    if snapshot.info is not None:
        metric.add_metric([snapshot.info[name] for name in INFO_LABELS], float(snapshot.running))
    return metric
