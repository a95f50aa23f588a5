"""Which charts a report has, of one run or of several laid over each other."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from llmload.report import chart as colours
from llmload.report.chart import Chart, Section, Series, run_colour
from llmload.report.digest import Digest
from llmload.report.latency_charts import ecdf, latency_over_time
from llmload.report.load_charts import load_sections
from llmload.report.over_time import nothing_drawn, over_time
from llmload.report.tables import LATENCIES

TOKEN_BARS: Final = 32


def sections(digests: Sequence[Digest], names: Sequence[str]) -> list[Section]:
    """Return the charts of the runs; `names` are what the runs are called in legends."""
    several = len(digests) > 1
    latency_note = (
        "Share of values at or below each latency, over the judged window; a curve further left is faster."
        " Dotted lines: the limits of [slo]."
    )
    how = (
        "p50 solid, p95 dashed, by the start of each request (ITL: by its arrival)."
        if several
        else "By the start of each request (ITL: by its arrival). Dots are single requests, "
        "drawn at random where there are many."
    )
    return [
        Section("Throughput and load over time", over_time(digests, names)),
        Section("Latency distributions", [ecdf(digests, names, *each) for each in LATENCIES.items()], latency_note),
        Section(
            "Latency over time",
            [latency_over_time(digests, names, *each) for each in LATENCIES.items()],
            f"{how} A percentile is drawn where enough values back it: 20 for p95, 100 for p99.",
        ),
        *load_sections(digests, names),
        Section(
            "Tokens a request",
            [
                _tokens(digests, names, "Prompt tokens", "request_prompt_tokens"),
                _tokens(digests, names, "Output tokens", "request_output_tokens"),
            ],
        ),
    ]


def _tokens(digests: Sequence[Digest], names: Sequence[str], title: str, key: str) -> Chart:
    of = [digest.totals.distributions[key] for digest in digests]
    most = max((each.most for each in of if each.count), default=0.0)
    width = max(1, math.ceil((most + 1) / TOKEN_BARS))
    edges = [width * place - 0.5 for place in range(1, int(most // width) + 2)]
    single = len(digests) == 1
    return Chart(
        title=title,
        unit="% of requests",
        x="linear",
        x_label=f"{title.lower()}, bars of {width}" if single else title.lower(),
        series=[
            Series(
                name="requests" if single else run,
                x=[edge + 0.5 - width / 2 for edge in edges],
                y=[100 * share for share in np.diff(each.at_most_each(edges), prepend=0) / each.count],
                colour=colours.SECOND if single else run_colour(place),
                style="bars" if single else "step",
            )
            for place, (each, run) in enumerate(zip(of, names, strict=True))
            if each.count
        ],
        empty="Not known: the engine reported no count."
        if any(digest.totals.distributions["e2e_s"].count for digest in digests)
        else nothing_drawn(digests, "No request was completed in the judged window."),
    )
