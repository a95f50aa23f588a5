"""The engines' names for one and the same figure, and DCGM's, read from Prometheus text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

_BLANK: Final = 2.0**62
"""DCGM says "not known" by numbers near 2^63; NaN and infinity are no lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A figure, the names it goes by (the first that is served counts), and how several label sets make one."""

    name: str
    names: tuple[str, ...]
    greatest: bool = False
    """Take the greatest of several label sets instead of their sum: shares do not add up."""


def _durations(name: str, *names: str) -> tuple[Series, Series]:
    return (
        Series(name=f"{name}_sum_s", names=tuple(f"{each}_sum" for each in names)),
        Series(name=f"{name}_count", names=tuple(f"{each}_count" for each in names)),
    )


ENGINE: Final = (
    Series(
        name="running",
        names=(
            *("vllm:num_requests_running", "sglang:num_running_reqs"),
            *("tgi_batch_current_size", "llamacpp:requests_processing"),
        ),
    ),
    Series(
        name="waiting",
        names=(
            *("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
            *("tgi_queue_size", "llamacpp:requests_deferred"),
        ),
    ),
    Series(
        name="kv_cache_usage",
        names=(
            *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            *("sglang:token_usage", "llamacpp:kv_cache_usage_ratio"),
        ),
        greatest=True,
    ),
    Series(name="preemptions", names=("vllm:num_preemptions_total",)),
    Series(
        name="prompt_tokens",
        names=(
            *("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
            *("tgi_request_input_length_sum", "llamacpp:prompt_tokens_total"),
        ),
    ),
    Series(
        name="output_tokens",
        names=(
            *("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
            *("tgi_request_generated_tokens_sum", "llamacpp:tokens_predicted_total"),
        ),
    ),
    Series(
        name="prefix_cache_queries",
        names=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total", "sglang:prompt_tokens_total"),
    ),
    Series(
        name="prefix_cache_hits",
        names=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "sglang:cached_tokens_total"),
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
    Series(name="memory_used_mib", names=("DCGM_FI_DEV_FB_USED",)),
    Series(name="power_w", names=("DCGM_FI_DEV_POWER_USAGE",)),
    Series(name="energy_mj", names=("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",)),
    Series(name="gpu_util_percent", names=("DCGM_FI_DEV_GPU_UTIL",)),
    Series(name="tensor_active", names=("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",)),
    Series(name="nvlink_tx_bytes_per_s", names=("DCGM_FI_PROF_NVLINK_TX_BYTES",)),
    Series(name="nvlink_rx_bytes_per_s", names=("DCGM_FI_PROF_NVLINK_RX_BYTES",)),
)


def read(text: str, table: Iterable[Series], by: str = "") -> dict[str, dict[str, float]]:
    """
    Return what the text says of each figure, for each value of the label `by`; without it, under "".

    What is not served is not there; what is no finite number is left out.
    """
    table = tuple(table)
    found: dict[str, dict[str, list[float]]] = {}
    for match in _pattern(tuple(name for series in table for name in series.names)).finditer(text):
        name, labels, value = match.groups()
        number = _number(value)
        if number is not None:
            found.setdefault(_label(labels, by), {}).setdefault(name, []).append(number)
    return {key: _combined(values, table) for key, values in found.items()}


def _combined(values: Mapping[str, list[float]], table: Iterable[Series]) -> dict[str, float]:
    combined = {}
    for series in table:
        name = next((name for name in series.names if name in values), None)
        if name is not None:
            combined[series.name] = max(values[name]) if series.greatest else sum(values[name])
    return combined


@cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(map(re.escape, sorted(set(names), key=len, reverse=True)))
    return re.compile(rf"^({either})(?:\{{(.*)\}})?[ \t]+(\S+)", re.MULTILINE)


def _label(labels: str | None, by: str) -> str:
    match = re.search(rf'(?:^|,){by}="([^"]*)"', labels or "") if by else None
    return match[1] if match else ""


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < _BLANK else None
