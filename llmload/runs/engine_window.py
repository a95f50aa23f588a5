"""What an engine's own series say of a window of a run: counters from its start to its end, gauges within it."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Final

from llmload.runs.samples import SampledPart
from llmload.runs.summary_parts import EngineWindow, Speculation

_LEAST_READS: Final = 2
"""One read of a counter says nothing of how much it increased."""
Spans = Sequence[tuple[float, float]]
"""Begin and end of each part of a window, on the clock of the samples."""


def engine_window(engines: Sequence[SampledPart], spans: Spans) -> EngineWindow | None:
    """Return what the engines said of a window; None where there is no sample in it and none around it."""
    window = _Window(engines, spans)
    if not window.samples:
        return None
    hits, queries = window.increase("prefix_cache_hits"), window.increase("prefix_cache_queries")
    return EngineWindow(
        samples=window.samples,
        running_mean=window.total_of_means("running"),
        running_max=window.total_of_maxima("running"),
        waiting_mean=window.total_of_means("waiting"),
        waiting_max=window.total_of_maxima("waiting"),
        kv_cache_usage_mean=window.greatest_mean("kv_cache_usage"),
        kv_cache_usage_max=window.maximum("kv_cache_usage"),
        preemptions=window.increase("preemptions"),
        prompt_tokens=window.increase("prompt_tokens"),
        output_tokens=window.increase("output_tokens"),
        prefix_cache_hit_share=None if hits is None or not queries else hits / queries,
        ttft_mean_s=window.mean_s("ttft"),
        itl_mean_s=window.mean_s("itl"),
        queue_mean_s=window.mean_s("queue"),
        prefill_mean_s=window.mean_s("prefill"),
        decode_mean_s=window.mean_s("decode"),
    )


def engine_speculation(engines: Sequence[SampledPart], spans: Spans) -> Speculation | None:
    """Return what speculative decoding did in a window, by the engines' counters; None where it did nothing."""
    window = _Window(engines, spans)
    drafts, drafted = window.increase("drafts"), window.increase("draft_tokens")
    accepted = window.increase("accepted_tokens")
    if not drafts or not drafted or accepted is None:
        return None
    names = [name for engine in engines[:1] for name in engine.values if name.startswith("accepted_at_")]
    positions = [window.increase(name) for name in names]
    return Speculation(
        source="engine",
        drafts=drafts,
        draft_tokens=drafted,
        accepted_tokens=accepted,
        acceptance_rate=accepted / drafted,
        accept_length=1 + accepted / drafts,
        by_position=tuple(each / drafts for each in positions if each is not None),
    )


class _Window:
    """The samples of engines within some spans of time."""

    def __init__(self, engines: Sequence[SampledPart], spans: Spans) -> None:
        self._engines, self._spans = engines, spans
        self._within = [
            [index for begin_s, end_s in spans for index in _between(each, begin_s, end_s)] for each in engines
        ]
        self.samples = sum(map(len, self._within))

    def _gauges(self, name: str) -> Iterable[list[float]]:
        """Yield each engine's values in the window, where it has some."""
        for engine, within in zip(self._engines, self._within, strict=True):
            values = engine.values.get(name)
            found = [value for index in within if values and (value := values[index]) is not None]
            if found:
                yield found

    def total_of_means(self, name: str) -> float | None:
        return _over(sum, map(fmean, self._gauges(name)))

    def total_of_maxima(self, name: str) -> float | None:
        return _over(sum, map(max, self._gauges(name)))

    def greatest_mean(self, name: str) -> float | None:
        return _over(max, map(fmean, self._gauges(name)))

    def maximum(self, name: str) -> float | None:
        return _over(max, map(max, self._gauges(name)))

    def increase(self, name: str) -> float | None:
        """Return how much a counter increased in the window; None where an engine does not serve it or began again."""
        increases = [
            _increase(engine, name, begin_s, end_s) for engine in self._engines for begin_s, end_s in self._spans
        ]
        known = [each for each in increases if each is not None]
        return sum(known) if known and len(known) == len(increases) else None

    def mean_s(self, name: str) -> float | None:
        total_s, count = self.increase(f"{name}_sum_s"), self.increase(f"{name}_count")
        return None if total_s is None or not count else total_s / count


def _between(engine: SampledPart, begin_s: float, end_s: float) -> range:
    return range(bisect_left(engine.t_s, begin_s), bisect_left(engine.t_s, end_s))


def _increase(engine: SampledPart, name: str, begin_s: float, end_s: float) -> float | None:
    values = engine.values.get(name)
    first, last = bisect_left(engine.t_s, begin_s), bisect_left(engine.t_s, end_s)
    one_side = last == 0 or first == len(engine.t_s)  # no read after its start, or none before its end
    if values is None or one_side or len(values) < _LEAST_READS:
        return None
    begun, ended = _value_at(engine.t_s, values, begin_s), _value_at(engine.t_s, values, end_s)
    around = [value for value in values[max(0, first - 1) : last + 1] if value is not None]
    started_again = any(new < old for old, new in pairwise(around))
    return None if begun is None or ended is None or started_again else ended - begun


def _value_at(t_s: Sequence[float], values: Sequence[float | None], moment_s: float) -> float | None:
    """Return a counter's value at a moment, on a line between the samples around it; its nearest one beyond them."""
    after = bisect_left(t_s, moment_s)
    if after == 0 or after == len(t_s):
        return values[0] if after == 0 else values[-1]
    low, high = values[after - 1], values[after]
    if low is None or high is None:
        return None
    return low + (high - low) * (moment_s - t_s[after - 1]) / (t_s[after] - t_s[after - 1])


def _over(combine: Callable[[list[float]], float], values: Iterable[float]) -> float | None:
    found = list(values)
    return combine(found) if found else None
