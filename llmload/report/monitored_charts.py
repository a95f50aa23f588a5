"""What engine and GPUs said of themselves, as charts on the run's time axis."""

from collections.abc import Callable, Sequence
from typing import Final

from llmload.report import chart as colours
from llmload.report.chart import Band, Chart, Section, Series, run_colour
from llmload.report.digest import Digest
from llmload.report.monitored import ENGINE_FILE, GPU_FILE, Part, read_monitored
from llmload.report.over_time import bands

MIB_PER_GIB: Final = 1024
BYTES_PER_GB: Final = 1e9
_ENGINE: Final = (
    ("KV cache in use", "%", "kv_cache_usage", 100.0),
    ("Output tokens/s, by the engine", "tok/s", "output_tokens", None),
    ("Prompt tokens/s, by the engine", "tok/s", "prompt_tokens", None),
    ("Preemptions/s", "1/s", "preemptions", None),
)
"""Title, unit, series, and the factor to the unit; None: a counter, shown by how fast it grows."""
_GPU: Final = (
    ("Power", "W", "power_w", 1.0),
    ("Memory used", "GiB", "memory_used_mib", 1 / MIB_PER_GIB),
    ("Utilisation", "%", "gpu_util_percent", 1.0),
    ("Tensor cores active", "%", "tensor_active", 100.0),
    ("NVLink sent", "GB/s", "nvlink_tx_bytes_per_s", 1 / BYTES_PER_GB),
    ("NVLink received", "GB/s", "nvlink_rx_bytes_per_s", 1 / BYTES_PER_GB),
)


def monitored_sections(digest: Digest) -> list[Section]:
    """Return the sections of a run that read its engine or GPUs; none for one that read neither."""
    origin_s, own_bands = digest.manifest["started_unix_s"], bands(digest)
    engines = read_monitored(digest.folder, ENGINE_FILE, origin_s)
    gpus = read_monitored(digest.folder, GPU_FILE, origin_s)
    engine = [_requests(digest, engines, own_bands), *(_chart(engines, own_bands, *each) for each in _ENGINE)]
    found = []
    if engines:
        note = "What the engine said of itself: it speaks of all its clients, of which llmload may be one of many."
        found.append(Section("Engine", [chart for chart in engine if chart.drawn], note))
    if gpus:
        charts = [_chart(gpus, own_bands, *each) for each in _GPU]
        found.append(Section("GPUs", [chart for chart in charts if chart.drawn]))
    return found


def _requests(digest: Digest, engines: Sequence[Part], own_bands: Sequence[Band]) -> Chart:
    """The engine's own count of requests beside the client's."""
    series = [
        Series(
            name=_named(kind, part, engines),
            x=part.t_s,
            y=part.values[kind],
            colour=run_colour(2 * place + (kind == "waiting")),
            dash=kind == "waiting",
        )
        for place, part in enumerate(engines)
        for kind in ("running", "waiting")
        if part.has(kind)
    ]
    own = Series(
        name="in flight, by llmload",
        x=digest.timeline.middles_s,
        y=digest.timeline.in_flight,
        colour=colours.QUIET,
        width=4,
    )
    return Chart(title="Requests in the engine", unit="", series=[own, *series] if series else [], bands=own_bands)


def _chart(
    parts: Sequence[Part], own_bands: Sequence[Band], title: str, unit: str, name: str, factor: float | None
) -> Chart:
    of: Callable[[Part], Sequence[float | None]]
    if factor is None:
        of = lambda part: part.rate(name)  # noqa: E731 - one of two readings of the same table
    else:
        of = lambda part: [None if value is None else value * factor for value in part.values[name]]  # noqa: E731 - the other
    series = [
        Series(name=_named(title, part, parts), x=part.t_s, y=of(part), colour=run_colour(place))
        for place, part in enumerate(parts)
        if part.has(name)
    ]
    silent = name == "preemptions" and not any(any(each.y) for each in series)
    return Chart(title=title, unit=unit, series=[] if silent else series, bands=own_bands)


def _named(what: str, part: Part, among: Sequence[Part]) -> str:
    return what.lower() if len(among) == 1 else f"{what.lower()}, {part.name}"
