"""The series of engines and GPUs that llmload reads, and how a page of metrics is read: bounded, line by line."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapedFigure:
    """A figure, the series it is read from (the first that is served counts), and how label sets are combined."""

    name: str
    series: tuple[str, ...]
    use_max: bool = False
    """Take the maximum over the label sets instead of the sum: ratios do not add up."""
    position: str = ""
    """Take only label sets with this position, of a drafted token."""


def _durations(name: str, *series: str) -> tuple[ScrapedFigure, ScrapedFigure]:
    return (
        ScrapedFigure(name=f"{name}_sum_s", series=tuple(f"{each}_sum" for each in series)),
        ScrapedFigure(name=f"{name}_count", series=tuple(f"{each}_count" for each in series)),
    )


DRAFT_POSITIONS: Final = 8
"""As many drafted tokens of a step are read one by one."""
_PER_POSITION: Final = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
ENGINE: Final = (
    ScrapedFigure(
        name="running",
        series=(
            *("vllm:num_requests_running", "sglang:num_running_reqs"),
            *("tgi_batch_current_size", "llamacpp:requests_processing"),
        ),
    ),
    ScrapedFigure(
        name="waiting",
        series=(
            *("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
            *("tgi_queue_size", "llamacpp:requests_deferred"),
        ),
    ),
    ScrapedFigure(
        name="kv_cache_usage",
        series=(
            *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            *("sglang:token_usage", "llamacpp:kv_cache_usage_ratio"),
        ),
        use_max=True,
    ),
    ScrapedFigure(name="preemptions", series=("vllm:num_preemptions_total",)),
    ScrapedFigure(
        name="prompt_tokens",
        series=(
            *("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
            *("tgi_request_input_length_sum", "llamacpp:prompt_tokens_total"),
        ),
    ),
    ScrapedFigure(
        name="output_tokens",
        series=(
            *("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
            *("tgi_request_generated_tokens_sum", "llamacpp:tokens_predicted_total"),
        ),
    ),
    ScrapedFigure(
        name="prefix_cache_queries",
        series=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total", "sglang:prompt_tokens_total"),
    ),
    ScrapedFigure(
        name="prefix_cache_hits",
        series=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "sglang:cached_tokens_total"),
    ),
    *_durations("queue", "vllm:request_queue_time_seconds"),
    *_durations("prefill", "vllm:request_prefill_time_seconds"),
    *_durations("decode", "vllm:request_decode_time_seconds"),
    ScrapedFigure(name="drafts", series=("vllm:spec_decode_num_drafts_total",)),
    ScrapedFigure(name="draft_tokens", series=("vllm:spec_decode_num_draft_tokens_total",)),
    ScrapedFigure(name="accepted_tokens", series=("vllm:spec_decode_num_accepted_tokens_total",)),
    *(
        ScrapedFigure(name=f"accepted_at_{position + 1}", series=(_PER_POSITION,), position=str(position))
        for position in range(DRAFT_POSITIONS)
    ),
    *_durations("ttft", "vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"),
    *_durations(
        "itl",
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
        "sglang:inter_token_latency_seconds",
        "sglang:time_per_output_token_seconds",
    ),
    *_durations(
        "e2e", "vllm:e2e_request_latency_seconds", "sglang:e2e_request_latency_seconds", "tgi_request_duration"
    ),
)
GPU: Final = (
    ScrapedFigure(name="memory_used_mib", series=("DCGM_FI_DEV_FB_USED",)),
    ScrapedFigure(name="power_w", series=("DCGM_FI_DEV_POWER_USAGE",)),
    ScrapedFigure(name="energy_mj", series=("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",)),
    ScrapedFigure(name="gpu_util_percent", series=("DCGM_FI_DEV_GPU_UTIL",)),
    ScrapedFigure(name="tensor_active", series=("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",)),
    ScrapedFigure(name="nvlink_tx_bytes_per_s", series=("DCGM_FI_PROF_NVLINK_TX_BYTES",)),
    ScrapedFigure(name="nvlink_rx_bytes_per_s", series=("DCGM_FI_PROF_NVLINK_RX_BYTES",)),
)


MAX_LINES: Final = 1_000
"""Lines of known series that are read of a page: an engine of 16 ranks serves 400."""
MAX_CHARS: Final = 256_000
"""Characters of all of them: the parser takes up to 0.6 us for each, while a process of the load does nothing else."""
MAX_LINE_CHARS: Final = 2_000
MAX_LABELS: Final = 64
MAX_PART_CHARS: Final = 100
"""Length of a GPU's name."""
_UNKNOWN_FROM: Final = 2.0**62
"""DCGM writes a number near 2^63 for an unknown value; NaN and infinity fail the same comparison."""
_Sample = tuple[str, dict[str, str], float]
_Series = tuple[str, str]
"""A series' name, and its label `position`."""


@dataclass(slots=True)
class Page:
    """What a page says: `{value of the label by: {figure: value}}`, and the lines of known series that are lost."""

    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    lost: int = 0
    why: str = ""
    """What is wrong with the first of them."""

    def lose(self, why: str, lines: int = 1) -> None:
        """Count lines that are not read."""
        self.lost += lines
        self.why = self.why or why


def read_page(text: str, figures: Iterable[ScrapedFigure], by: str = "", hide: Callable[[str], str] = str) -> Page:
    """
    Read Prometheus or OpenMetrics text; without `by` everything is one part, "".

    Figures that are not served or not finite, or below zero, are absent. A line that cannot be read loses that line. Of
    a series that is there twice the first line counts, as for Prometheus. `hide` removes keys from a part's name.
    """
    figures, page = tuple(figures), Page()
    found: dict[str, dict[_Series, list[float]]] = {}
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for name, labels, value in _samples(text, tuple(name for figure in figures for name in figure.series), page):
        series = name, frozenset(labels.items())
        if not 0 <= value < _UNKNOWN_FROM or series in seen:
            continue
        seen.add(series)
        part = hide(labels.get(by, ""))
        if len(part) > MAX_PART_CHARS:
            page.lose(f"its label {by} has more than {MAX_PART_CHARS} characters")
            continue
        found.setdefault(part, {}).setdefault((name, labels.get("position", "")), []).append(value)
    page.parts = {part: _combined(values, figures) for part, values in found.items()}
    return page


@cache
def _lines_of(series: tuple[str, ...]) -> re.Pattern[str]:
    """Match the lines of these series alone: the parser takes 20 us a line and more, and an engine serves hundreds."""
    names = "|".join(map(re.escape, sorted(set(series))))
    return re.compile(rf"^(?:{names})[{{ \t].*$", re.MULTILINE)


def _samples(text: str, series: tuple[str, ...], page: Page) -> Iterator[_Sample]:
    """Yield the samples of these series, within the limits; what is lost is counted in the page."""
    left = MAX_CHARS
    for number, match in enumerate(_lines_of(series).finditer(text)):
        line = match[0]
        left -= len(line)
        if number >= MAX_LINES or left < 0:
            page.lose(f"there are more than {MAX_LINES:,} lines, or {MAX_CHARS:,} characters, of series that it reads")
            return
        if len(line) > MAX_LINE_CHARS:
            page.lose(f"one of {len(line):,} characters is too long")
        elif (sample := _sample(line)) is None:
            page.lose(f"{line[:80]!a} is not of the format")
        elif len(sample[1]) > MAX_LABELS:
            page.lose(f"one has more than {MAX_LABELS} labels")
        else:
            yield sample


def _sample(line: str) -> _Sample | None:
    """
    Return what a line says, None if it cannot be parsed.

    The parser of the classic format reads OpenMetrics lines too, past their exemplars. The OpenMetrics parser would
    refuse a line without its family's other lines.
    """
    try:
        (sample,) = (each for metric in text_string_to_metric_families(line) for each in metric.samples)
        return sample.name, sample.labels, float(sample.value)
    except (ValueError, IndexError, OverflowError):  # the library's own, for some broken lines
        return None


def _combined(values: Mapping[_Series, list[float]], figures: Iterable[ScrapedFigure]) -> dict[str, float]:
    combined = {}
    for figure in figures:
        found = next((values[key] for name in figure.series if (key := (name, figure.position)) in values), None)
        if found is not None:
            combined[figure.name] = max(found) if figure.use_max else sum(found)
    return combined
