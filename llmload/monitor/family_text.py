"""Counters and gauges as Prometheus text: the library writes it, and that is kept, since only values change."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from llmload.monitor.exposition_text import END, template
from llmload.monitor.families import COMMON_LABELS, FAMILIES, INFO_LABELS, RUN_INFO, RUN_INFO_TEXT, Family, Snapshot

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
