"""A run's totals as Prometheus or OpenMetrics text: a template per set of labels, filled with values at each scrape."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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

OPEN_METRICS_END: Final = "# EOF\n"
_OPEN_METRICS: Final = "application/openmetrics-text"
_FAMILY_OF: Final[dict[str, Any]] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
_VALUE_TEXT: Final[Callable[[float], str]] = floatToGoString
_Figures = tuple[Mapping[str, float], ...]


def exposition(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """Return every series of a snapshot and the content type, in the format that the `Accept` header asks for."""
    _, content_type = choose_encoder(accept)
    open_metrics = content_type.startswith(_OPEN_METRICS)
    labels = {name: snapshot.labels[name] for name in COMMON_LABELS}
    histograms = histogram_text(labels, snapshot.totals, snapshot.slo, open_metrics=open_metrics)
    end = OPEN_METRICS_END if open_metrics else ""
    return f"{family_text(snapshot, accept)}{histograms}{end}".encode(), content_type


def _template(lines: Iterable[str]) -> str:
    """Join the lines, with a `%s` for the value after each that is not a comment."""
    return "".join(f"{line.replace('%', '%%')}{'' if line.startswith('#') else ' %s'}\n" for line in lines)


# Counters and gauges: the library writes the text once per set of labels, since it takes too long for every scrape.


def family_text(snapshot: Snapshot, accept: str) -> str:
    """Return the lines of all counters, all gauges and the run's description; a count of nothing is 0."""
    figures = tuple(family.read(snapshot) for family in FAMILIES)
    common = tuple(snapshot.labels[name] for name in COMMON_LABELS)
    info = None if snapshot.info is None else tuple(snapshot.info[name] for name in INFO_LABELS)
    values = [value for family in figures for value in family.values()]
    if info is not None:
        values.append(float(snapshot.running))
    return _family_template(accept, common, tuple(map(tuple, figures)), info) % tuple(map(_VALUE_TEXT, values))


@lru_cache(maxsize=8)
def _family_template(
    accept: str, common: tuple[str, ...], keys: tuple[tuple[str, ...], ...], info: tuple[str, ...] | None
) -> str:
    """Return the library's text for these labels, with a `%s` for each value."""
    encode, _ = choose_encoder(accept)
    figures = tuple(dict.fromkeys(each, 0.0) for each in keys)
    text = encode(_Families(common, figures, info)).decode().removesuffix(OPEN_METRICS_END).removesuffix("\n")
    lines = text.split("\n")  # not splitlines(): a label may contain a character that it splits at
    return _template(line if line.startswith("#") else line.rpartition(" ")[0] for line in lines)


class _Families(Collector):
    """Passes all families to the library."""

    def __init__(self, common: tuple[str, ...], figures: _Figures, info: tuple[str, ...] | None) -> None:
        self._common, self._figures, self._info = common, figures, info

    def collect(self) -> Iterator[Metric]:
        """Yield every family, in the order of the table."""
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


# Histograms: written here, since the library takes 9 us a line and there are too many lines.

MAX_EXEMPLAR_CHARACTERS: Final = 128
"""OpenMetrics' limit on the length of an exemplar's label names and values together."""
_EXEMPLAR_LABEL: Final = "request_id"


def histogram_text(labels: Mapping[str, str], totals: RunTotals, slo: Slo, *, open_metrics: bool) -> str:
    """Return every histogram's lines, with exemplars in OpenMetrics (the classic format has none)."""
    return "".join(
        each.fill(totals, totals.exemplars.get(each.family.distribution, ()) if open_metrics else ())
        for each in _histogram_templates(tuple(labels.items()), slo)
    )


@dataclass(frozen=True, slots=True)
class _HistogramTemplate:
    """A histogram's text for one set of labels, with a `%s` for each number."""

    family: HistogramFamily
    bounds: tuple[float, ...]
    text: str

    def fill(self, totals: RunTotals, exemplars: Sequence[Exemplar]) -> str:
        histogram = totals.all_answers(self.family.distribution)
        counts = [*histogram.counts_at_most(self.bounds), histogram.count]
        values: list[object] = [*counts, counts[-1], repr(histogram.total)]
        for exemplar in sorted(exemplars, key=lambda each: each.value):  # a bucket shows one: the slowest
            index = bisect_left(self.bounds, exemplar.value)
            values[index] = f"{counts[index]}{_exemplar_text(exemplar)}"
        return self.text % tuple(values)


@lru_cache(maxsize=8)
def _histogram_templates(labels: tuple[tuple[str, str], ...], slo: Slo) -> tuple[_HistogramTemplate, ...]:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels))
    return tuple(_histogram_template(family, inside, slo) for family in HISTOGRAMS)


def _histogram_template(family: HistogramFamily, labels: str, slo: Slo) -> _HistogramTemplate:
    bounds, name = tuple(family.bounds(slo)), family.name
    lines = [f"# HELP {name} {family.text}", f"# TYPE {name} histogram"]
    lines += [f'{name}_bucket{{{labels},le="{bound}"}}' for bound in (*map(repr, bounds), "+Inf")]
    lines += [f"{name}_count{{{labels}}}", f"{name}_sum{{{labels}}}"]
    return _HistogramTemplate(family=family, bounds=bounds, text=_template(lines))


def _exemplar_text(exemplar: Exemplar) -> str:
    if len(_EXEMPLAR_LABEL) + len(exemplar.request_id) > MAX_EXEMPLAR_CHARACTERS:
        return ""
    label = f'{_EXEMPLAR_LABEL}="{_escaped(exemplar.request_id)}"'
    return f" # {{{label}}} {exemplar.value!r} {exemplar.unix_s:.3f}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
