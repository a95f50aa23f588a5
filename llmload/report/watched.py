"""What engine and GPUs said of themselves during a run, beside what the client measured, as a terminal shows it."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

UNKNOWN = "n/a"


def watched(summary: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield a table for the engine and one for the GPUs, where the run has watched them."""
    if engine := summary.get("engine_metrics"):
        yield _engine(engine)
    if gpus := summary.get("gpu_metrics"):
        yield _gpus(gpus)


def _engine(engine: Mapping[str, Any]) -> Table:
    table = _table("engine's own word, whole run")
    if not engine["samples"]:
        table.add_row("", f"nothing: {_failed(engine)}, as of an engine that serves no metrics")
        return table
    for name, key in (("TTFT", "ttft"), ("ITL", "itl")):
        own, client, gap = (engine[key] for key in (f"{key}_mean_s", f"client_{key}_mean_s", f"{key}_gap_s"))
        table.add_row(f"{name}, mean", f"{_ms(own)}, client's {_ms(client)}, gap {_ms(gap)}")
    table.add_row("running, waiting", f"{_figure(engine['running_max'])}, {_figure(engine['waiting_max'])} at most")
    table.add_row("KV cache in use", f"{_share(engine['kv_cache_usage_max'])} at most")
    table.add_row("preemptions", _figure(engine["preemptions"]))
    table.add_row("prefix cache hits", _share(engine["prefix_cache_hit_share"]))
    counted = f"{_figure(engine['output_tokens'])}, client's {_figure(engine['client_output_tokens'])}"
    table.add_row("output tokens", f"{counted}, gap {_figure(engine['output_tokens_gap'])}")
    table.add_row("read", f"{engine['samples']:,} times, {_failed(engine)}")
    return table


def _gpus(gpus: Mapping[str, Any]) -> Table:
    table = _table("GPUs' own word, whole run")
    if not gpus["samples"]:
        table.add_row("", f"nothing: {_failed(gpus)}")
        return table
    table.add_row("GPUs", _figure(gpus["gpus"]))
    used, needed = _figure(gpus["memory_used_max_gib"], " GiB"), gpus.get("memory_estimate_gib")
    filled = _figure(gpus.get("memory_estimate_with_kv_cache_gib"), " GiB")
    sized = "" if needed is None else f"; sizing expects {_figure(needed, ' GiB')}, and {filled} with the KV cache"
    table.add_row("memory in use", f"{used} at most{sized}")
    table.add_row("power", f"{_figure(gpus['power_max_w'], ' W')} at most")
    energy = _figure(gpus["energy_j_per_output_token"], " J")
    table.add_row("energy", f"{_figure(gpus['energy_j'], ' J')}, {energy} an output token")
    table.add_row("tensor cores active", f"{_share(gpus['tensor_active_max'])} at most")
    for name, way in (("NVLink, sent", "tx"), ("NVLink, received", "rx")):
        most, whole = gpus[f"nvlink_{way}_max_bytes_per_s"], gpus[f"nvlink_{way}_bytes"]
        table.add_row(name, f"{_gigabytes(most)}/s at most, {_gigabytes(whole)} in all")
    table.add_row("read", f"{gpus['samples']:,} times, {_failed(gpus)}")
    return table


def _table(name: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column(name, min_width=35)
    table.add_column("")
    return table


def _failed(figures: Mapping[str, Any]) -> str:
    return f"{figures['failed_reads']:,} reads failed"


def _ms(value_s: float | None) -> str:
    return UNKNOWN if value_s is None else f"{value_s * 1000:,.2f} ms"


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}{unit}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:,.2f}{unit}"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _gigabytes(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value / 1e9:,.2f} GB"
