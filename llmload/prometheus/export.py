"""A run's totals as Prometheus series, translated when scraped and never before."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from llmload.metrics.totals import RunTotals
from llmload.prometheus.families import (
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
from llmload.record import Slo
from llmload.stats.histogram import Exemplar

# Prometheus text of which all but the values is kept from scrape to scrape.

END: Final = "# EOF\n"
"""How OpenMetrics ends."""


def template(lines: Iterable[str]) -> str:
    """Return the lines as one text, with a place for a value (`%s`) behind each that is no comment."""
    return "".join(f"{line.replace('%', '%%')}{'' if line.startswith('#') else ' %s'}\n" for line in lines)


# Counters and gauges as Prometheus text: the library writes it, and that is kept, since only values change.

_FAMILY_OF: Final[dict[str, Any]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
_VALUE_TEXT: Final[Callable[[float], str]] = floatToGoString
_Figures = tuple[Mapping[str, float], ...]


def family_text(snapshot: Snapshot, accept: str) -> str:
    """Return the lines of all counters, gauges and the run's description; those of nothing yet stand at 0."""
    figures = tuple(family.read(snapshot) for family in FAMILIES)
    common = tuple(snapshot.labels[name] for name in COMMON_LABELS)
    info = None if snapshot.info is None else tuple(snapshot.info[name] for name in INFO_LABELS)
    values = [value for family in figures for value in family.values()]
    if info is not None:
        values.append(float(snapshot.running))
    return _template(accept, common, tuple(map(tuple, figures)), info) % tuple(map(_VALUE_TEXT, values))


@lru_cache(maxsize=8)
def _template(
    accept: str, common: tuple[str, ...], keys: tuple[tuple[str, ...], ...], info: tuple[str, ...] | None
) -> str:
    """What the library writes of these labels, with a place for each value."""
    encode, _ = choose_encoder(accept)
    figures = tuple(dict.fromkeys(each, 0.0) for each in keys)
    text = encode(_Families(common, figures, info)).decode().removesuffix(END).removesuffix("\n")
    lines = text.split("\n")  # not splitlines(): a label may hold what it would cut at
    return template(line if line.startswith("#") else line.rpartition(" ")[0] for line in lines)


class _Families(Collector):
    """What the library asks for families."""

    def __init__(self, common: tuple[str, ...], figures: _Figures, info: tuple[str, ...] | None) -> None:
        self._common, self._figures, self._info = common, figures, info

    def collect(self) -> Iterator[Metric]:
        """Every family, in its order."""
        for family, figures in zip(FAMILIES, self._figures, strict=True):
            yield self._family(family, figures)
        described = GaugeMetricFamily(RUN_INFO, RUN_INFO_TEXT, labels=INFO_LABELS)
        if self._info is not None:
            described.add_metric(self._info, 0.0)
        yield described

    def _family(self, family: Family, figures: Mapping[str, float]) -> Metric:
        names = (*COMMON_LABELS, family.label) if family.label else COMMON_LABELS
        metric: CounterMetricFamily | GaugeMetricFamily = _FAMILY_OF[family.kind](
            family.name, family.text, labels=names
        )
        for value, figure in figures.items():
            metric.add_metric([*self._common, value] if family.label else self._common, figure)
        return metric


# Histograms as Prometheus text: the library takes 9 us a line, these are too many, and only their counts change.

MOST_EXEMPLAR_CHARACTERS: Final = 128
"""OpenMetrics' limit on an exemplar's label names and values together."""
_EXEMPLAR_LABEL: Final = "request_id"


def histogram_text(labels: Mapping[str, str], totals: RunTotals, slo: Slo, *, open_metrics: bool) -> str:
    """Return every histogram's lines; exemplars in OpenMetrics alone, since the older format has no place for any."""
    return "".join(
        layout.text(totals, totals.exemplars.get(layout.family.distribution, ()) if open_metrics else ())
        for layout in _layouts(tuple(labels.items()), slo)
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """What of a histogram stays the same from scrape to scrape: all but the numbers, which have a place in it each."""

    family: HistogramFamily
    bounds: tuple[float, ...]
    template: str

    def text(self, totals: RunTotals, exemplars: Sequence[Exemplar]) -> str:
        histogram = totals.whole(self.family.distribution)
        counts = [*histogram.at_most_each(self.bounds), histogram.count]
        values: list[object] = [*counts, counts[-1], repr(histogram.total)]
        for exemplar in sorted(exemplars, key=lambda each: each.value):  # a bucket has place for one: the slowest
            index = bisect_left(self.bounds, exemplar.value)
            values[index] = f"{counts[index]}{_exemplar_text(exemplar)}"
        return self.template % tuple(values)


@lru_cache(maxsize=8)
def _layouts(labels: tuple[tuple[str, str], ...], slo: Slo) -> tuple[_Layout, ...]:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels))
    return tuple(_layout(family, inside, slo) for family in HISTOGRAMS)


def _layout(family: HistogramFamily, labels: str, slo: Slo) -> _Layout:
    bounds, name = tuple(family.bounds(slo)), family.name
    lines = [f"# HELP {name} {family.text}", f"# TYPE {name} histogram"]
    lines += [f'{name}_bucket{{{labels},le="{bound}"}}' for bound in (*map(repr, bounds), "+Inf")]
    lines += [f"{name}_count{{{labels}}}", f"{name}_sum{{{labels}}}"]
    return _Layout(family=family, bounds=bounds, template=template(lines))


def _exemplar_text(exemplar: Exemplar) -> str:
    if len(_EXEMPLAR_LABEL) + len(exemplar.request_id) > MOST_EXEMPLAR_CHARACTERS:
        return ""
    label = f'{_EXEMPLAR_LABEL}="{_escaped(exemplar.request_id)}"'
    return f" # {{{label}}} {exemplar.value!r} {exemplar.unix_s:.3f}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


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
