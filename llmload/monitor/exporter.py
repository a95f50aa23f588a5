"""A run's totals as Prometheus series, translated when scraped and never before."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llmload.measure.histogram import Histogram
from llmload.monitor.families import (
    COMMON_LABELS,
    FAMILIES,
    HISTOGRAMS,
    INFO_LABELS,
    RUN_INFO,
    RUN_INFO_TEXT,
    Family,
    HistogramFamily,
    Snapshot,
)

_FAMILY_OF: Final[dict[str, Any]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class RunCollector(Collector):
    """Asks for a snapshot when Prometheus asks, and shows all series, those of nothing yet at 0."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask for a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family of this moment."""
        snapshot = self._snapshot()
        common = [snapshot.labels[name] for name in COMMON_LABELS]
        for family in FAMILIES:
            yield _simple(family, snapshot, common)
        for histogram in HISTOGRAMS:
            yield _histogram(histogram, snapshot, common)
        yield _run_info(snapshot)


def wsgi_app(snapshot: Callable[[], Snapshot]) -> Any:
    """Return a WSGI application that answers with the series; uncompressed, which blocks a busy process less."""
    registry = CollectorRegistry()
    registry.register(RunCollector(snapshot))
    return make_wsgi_app(registry, disable_compression=True)


def _simple(family: Family, snapshot: Snapshot, common: list[str]) -> Metric:
    names = (*COMMON_LABELS, family.label) if family.label else COMMON_LABELS
    metric: CounterMetricFamily | GaugeMetricFamily = _FAMILY_OF[family.kind](family.name, family.text, labels=names)
    for value, figure in family.read(snapshot).items():
        metric.add_metric([*common, value] if family.label else common, figure)
    return metric


def _histogram(family: HistogramFamily, snapshot: Snapshot, common: list[str]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.text, labels=COMMON_LABELS)
    histogram: Histogram = snapshot.totals.whole(family.distribution)
    bounds = family.bounds(snapshot.slo)
    buckets = [(repr(bound), float(n)) for bound, n in zip(bounds, histogram.at_most_each(bounds), strict=True)]
    metric.add_metric(common, [*buckets, ("+Inf", float(histogram.count))], histogram.total)
    return metric


def _run_info(snapshot: Snapshot) -> Metric:
    metric = GaugeMetricFamily(RUN_INFO, RUN_INFO_TEXT, labels=INFO_LABELS)
    if snapshot.info is not None:
        metric.add_metric([snapshot.info[name] for name in INFO_LABELS], float(snapshot.running))
    return metric
