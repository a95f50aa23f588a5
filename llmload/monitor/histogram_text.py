"""Histograms as Prometheus text: the library takes 9 us a line, these are too many, and only their counts change."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from llmload.measure.exemplar import Exemplar
from llmload.measure.slo import Slo
from llmload.measure.totals import RunTotals
from llmload.monitor.exposition_text import template
from llmload.monitor.families import HISTOGRAMS, HistogramFamily

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
            place = bisect_left(self.bounds, exemplar.value)
            values[place] = f"{counts[place]}{_exemplar_text(exemplar)}"
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
