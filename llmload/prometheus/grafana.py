"""The Grafana dashboard as code: its panels, and the JSON that is built from them and committed."""

import json
import string
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

RATE: Final = "$__rate_interval"
RECORDED: Final = "30s"
"""The range of the recording rules; queries beside them use the same, or a ramp would look like a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel: its title, help text, unit, and queries by legend."""

    title: str
    text: str
    unit: str
    queries: dict[str, str]
    kind: Literal["stat", "lines", "heatmap"] = "lines"
    decimals: int | None = None
    exemplars: bool = False
    """Whether exemplars (the slowest requests) are shown as points."""
    needs: Literal["llmload", "engine", "gpu"] = "llmload"
    """The source of its series; without that source the panel stays empty."""


def quantile(share: float, name: str) -> str:
    """Return the query for a quantile of a histogram over the rate interval."""
    return f"histogram_quantile({share}, sum by (le) (rate({name}_bucket[{RATE}])))"


def mean(name: str) -> str:
    """Return the query for the mean of a histogram over the range of the recording rules."""
    return f"sum(rate({name}_sum[{RECORDED}])) / sum(rate({name}_count[{RECORDED}]))"


def _quantiles(name: str) -> dict[str, str]:
    return {label: quantile(share, name) for label, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


TTFT: Final = "llmload_time_to_first_token_seconds"
ITL: Final = "llmload_inter_token_latency_seconds"
_WIRE: Final = "llmload_time_to_first_token_on_the_wire_quantile_seconds"
_ENDED: Final = f"sum(rate(llmload_requests_total[{RATE}]))"
_STATS: Final = (
    Panel(
        title="Output tokens/s",
        text="Output tokens of answers as they end, so the curve has steps if answers are long.",
        unit="short",
        decimals=0,
        queries={"tokens/s": f"sum(rate(llmload_output_tokens_total[{RATE}]))"},
        kind="stat",
    ),
    Panel(
        title="Requests/min",
        text="Complete answers per minute.",
        unit="short",
        decimals=0,
        queries={"requests/min": f'60 * sum(rate(llmload_requests_total{{outcome="completed"}}[{RATE}]))'},
        kind="stat",
    ),
    Panel(
        title="Goodput",
        text="Complete answers per minute that met every limit of the scenario's SLO.",
        unit="short",
        decimals=0,
        queries={"good/min": f"60 * sum(rate(llmload_requests_good_total[{RATE}]))"},
        kind="stat",
    ),
    Panel(
        title="Failed",
        text="Failed requests as a fraction of all that ended.",
        unit="percentunit",
        queries={"failed": f'sum(rate(llmload_requests_total{{outcome="failed"}}[{RATE}])) / {_ENDED}'},
        kind="stat",
    ),
    Panel(
        title="Verdict",
        text="Whether the figures can be trusted: the level whose series is 1. The report names the reasons.",
        unit="none",
        queries={"{{level}}": "max by (level) (llmload_verdict) == 1"},
        kind="stat",
    ),
    Panel(
        title="In flight",
        text="Requests in flight; workers report every 3 s.",
        unit="short",
        queries={"in flight": "sum(llmload_requests_in_flight)"},
        kind="stat",
    ),
)
_CLIENT: Final = (
    Panel(
        title="Throughput, client and engine",
        text="Output tokens/s as counted by the client (answers that ended) and by the engine.",
        unit="short",
        queries={
            "client": f"sum(rate(llmload_output_tokens_total[{RECORDED}]))",
            "engine": "sum(engine:output_tokens:rate30s)",
        },
    ),
    Panel(
        title="Users and requests",
        text="Locust users and requests in flight by the client, requests running and waiting by the engine.",
        unit="short",
        queries={
            "users": 'sum(llmload_users{state="running"})',
            "in flight": "sum(llmload_requests_in_flight)",
            "engine running": "sum(engine:requests_running)",
            "engine waiting": "sum(engine:requests_waiting)",
        },
    ),
    Panel(
        title="Errors",
        text="Failed requests per second, in total and by the error types that occurred.",
        unit="reqps",
        queries={
            "all": f"sum(rate(llmload_request_errors_total[{RATE}]))",
            "{{error_type}}": f"sum by (error_type) (rate(llmload_request_errors_total[{RATE}])) "
            "and sum by (error_type) (llmload_request_errors_total) > 0",
        },
    ),
    Panel(
        title="Time to first token",
        text="Quantiles of answers that ended, within 6 %, since buckets are 5 % wide; the report is more exact.",
        unit="s",
        queries=_quantiles(TTFT),
        exemplars=True,
    ),
    Panel(
        title="Time to first token: gap of client and engine",
        text="Exact means; the gap is network, proxy and client. The client counts an answer at its end, so it lags.",
        unit="s",
        queries={
            "client mean": mean(TTFT),
            "engine mean": "avg(engine:time_to_first_token_seconds:mean30s)",
            "gap": f"{mean(TTFT)} - avg(engine:time_to_first_token_seconds:mean30s)",
        },
    ),
    Panel(
        title="Inter-token latency",
        text="Gaps between consecutive chunks with text.",
        unit="s",
        queries=_quantiles(ITL),
    ),
    Panel(
        title="Time to first token, distribution",
        text="Number of answers by time to first token: two bands are two populations, such as cached and new prompts.",
        unit="s",
        queries={"{{le}}": f"sum by (le) (increase({TTFT}_bucket[{RATE}]))"},
        kind="heatmap",
    ),
)
_ENGINE: Final = (
    Panel(
        title="KV cache",
        text="Fraction of the KV cache in use: near 1 the engine queues or preempts.",
        unit="percentunit",
        queries={
            "in use": "max(engine:kv_cache_usage:ratio)",
            "prefix cache hits": "max(engine:prefix_cache_hit:ratio5m)",
        },
        needs="engine",
    ),
    Panel(
        title="Preemptions and queue",
        text="Requests per second that the engine preempted to free KV cache, and requests that wait.",
        unit="short",
        queries={
            "preemptions/s": "sum(engine:preemptions:rate30s)",
            "waiting": "sum(engine:requests_waiting)",
        },
        needs="engine",
    ),
)
_GPU: Final = (
    Panel(
        title="Tensor cores active",
        text="Fraction of cycles in which the tensor cores were active; low while memory bandwidth is the limit.",
        unit="percentunit",
        queries={"GPU {{gpu}}": "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"},
        needs="gpu",
    ),
    Panel(
        title="NVLink",
        text="Bytes per second sent and received; DCGM reports a rate already.",
        unit="Bps",
        queries={
            "GPU {{gpu}} sent": "DCGM_FI_PROF_NVLINK_TX_BYTES",
            "GPU {{gpu}} received": "DCGM_FI_PROF_NVLINK_RX_BYTES",
        },
        needs="gpu",
    ),
    Panel(
        title="GPU memory",
        text="Memory in use on each GPU, and the sizing estimate for the scenario's model, if known.",
        unit="bytes",
        queries={
            "GPU {{gpu}}": "DCGM_FI_DEV_FB_USED * 1048576",
            "estimate: weights, overhead": 'sum(max by (part) (llmload_gpu_memory_estimate_bytes{part!="kv_cache"}))',
            "estimate: with KV cache": "sum(max by (part) (llmload_gpu_memory_estimate_bytes))",
        },
        needs="gpu",
    ),
    Panel(
        title="Power",
        text="Power of each GPU.",
        unit="watt",
        queries={"GPU {{gpu}}": "DCGM_FI_DEV_POWER_USAGE"},
        needs="gpu",
    ),
)
_NETWORK: Final = (
    Panel(
        title="Time to first token on the wire",
        text="From a request's departure to its first chunk with text, so far in the window; needs the packet ring.",
        unit="s",
        queries={"{{percentile}}": f"max by (percentile) ({_WIRE})"},
    ),
    Panel(
        title="Round trip",
        text="From a request's departure to its acknowledgement, so far in the window; needs the packet ring.",
        unit="s",
        queries={"{{percentile}}": "max by (percentile) (llmload_round_trip_quantile_seconds)"},
    ),
    Panel(
        title="Network events",
        text="Segments that came twice or late, windows that an end closed, connections that it reset.",
        unit="reqps",
        queries={"{{event}}": f"sum by (event) (rate(llmload_network_events_total[{RATE}]))"},
    ),
)
_GENERATOR: Final = (
    Panel(
        title="Load generator: event loop lag",
        text="Delay with which a sleeping process woke up; above 50 ms (p99) the client measures itself.",
        unit="s",
        queries={
            "p50": quantile(0.5, "llmload_event_loop_lag_seconds"),
            "p99": quantile(0.99, "llmload_event_loop_lag_seconds"),
        },
    ),
    Panel(
        title="Load generator: CPU",
        text="CPU use of each llmload process; 1 is a whole core, and near 1 the client sends and counts late.",
        unit="percentunit",
        queries={"{{worker}}": "max by (worker) (llmload_worker_cpu_ratio)"},
    ),
    Panel(
        title="Load generator: workers and schedule lag",
        text="Worker processes by state, and the delay of an open loop's requests against their schedule (p99, s).",
        unit="short",
        queries={
            "{{state}}": "sum by (state) (llmload_workers)",
            "schedule lag p99 (s)": quantile(0.99, "llmload_schedule_lag_seconds"),
        },
    ),
)
ROWS: Final = (_STATS, _CLIENT[:3], _CLIENT[3:6], (*_CLIENT[6:], *_ENGINE), _NETWORK, _GPU, _GENERATOR)
"""The panels of each row, from the top."""
RUN_REGIONS: Final = "llmload_run_info == 1"


with warnings.catch_warnings():
    # Its import warns of a newer model; the older one can be read by older Grafanas too.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common as common_builders
    from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as common_models
    from grafana_foundation_sdk.models import dashboard as models
    from grafana_foundation_sdk.models import heatmap as heatmap_models
    from grafana_foundation_sdk.models import prometheus as prometheus_models

DATASOURCE: Final = common_models.DataSourceRef(type_val="prometheus", uid="llmload-prometheus")
FILES: Final = ("llmload.json",)
_WIDTH, _HEIGHT, _STAT_HEIGHT = 24, 7, 4


def build() -> dict[str, str]:
    """Return the content of each file by name; the same at every call."""
    content = json.loads(JSONEncoder().encode(_dashboard().build()))
    return {FILES[0]: json.dumps(content, indent=2, sort_keys=True) + "\n"}


def write(folder: Path) -> list[Path]:
    """Write every file into the folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in build().items():
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def drifted(folder: Path) -> list[Path]:
    """Return the files that are missing or differ from a new build."""
    files = {folder / name: text for name, text in build().items()}
    return [file for file, text in files.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]


def _dashboard() -> Any:
    built = (
        dashboard.Dashboard("llmload")
        .uid("llmload")
        .tags(["llmload", "llm", "inference"])
        .editable()
        .refresh("5s")
        .time("now-15m", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .annotation(_run_regions())
    )
    number = y = 0
    for row in ROWS:
        height, width = _STAT_HEIGHT if row[0].kind == "stat" else _HEIGHT, _WIDTH // len(row)
        for index, panel in enumerate(row):
            number += 1
            drawn = _panel(panel).id(number).grid_pos(models.GridPos(h=height, w=width, x=index * width, y=y))
            built = built.with_panel(drawn)
        y += height
    return built


def _run_regions() -> Any:
    return (
        dashboard.AnnotationQuery()
        .name("Runs")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(RUN_REGIONS)
        .title_format("{{run_id}}")
        .text_format("{{scenario}}: {{model}} on {{engine}}")
    )


def _panel(panel: Panel) -> Any:
    drawn = _empty(panel)
    drawn = drawn.title(panel.title).description(panel.text).unit(panel.unit).datasource(DATASOURCE)
    if panel.decimals is not None:
        drawn = drawn.decimals(panel.decimals)
    for letter, (legend, expression) in zip(string.ascii_uppercase, panel.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend).range()
        drawn = drawn.with_target(query.format(_format(panel)).exemplar(panel.exemplars))
    return drawn


def _format(panel: Panel) -> Any:
    formats = prometheus_models.PromQueryFormat
    return formats.HEATMAP if panel.kind == "heatmap" else formats.TIME_SERIES


def _empty(panel: Panel) -> Any:
    if panel.kind == "stat":
        reduced = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
        names = (
            common_models.BigValueTextMode.NAME if panel.title == "Verdict" else common_models.BigValueTextMode.VALUE
        )
        return stat.Panel().reduce_options(reduced).text_mode(names).color_mode(common_models.BigValueColorMode.NONE)
    if panel.kind == "heatmap":
        return heatmap.Panel().color(heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME))
    return timeseries.Panel().min(0).line_width(1).fill_opacity(5)
