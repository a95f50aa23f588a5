"""What a run found, in one sentence: its load, the figures that it is for, its verdict."""

from collections.abc import Sequence
from typing import Final

from llmload.capacity.result import capacity_text
from llmload.metrics.doubts import marked
from llmload.metrics.validity import Doubt
from llmload.runs.summary import Figures, StageSummary, Summary
from llmload.runs.sweep import FRONT_SPEED
from llmload.sweep.points import best_point
from llmload.units import counted, percent, rounded, rounded_ms

SPEED: Final = "speed"
"""The protocol whose figure is the speed of a single request."""


def conclusion(summary: Summary) -> str:
    """Return what a run found: `8 users: 774 requests/min, TTFT p95 66 ms; VALID`."""
    failed = f", {_failed(summary)}" if summary.requests.failed else ""
    return f"{found(summary)}{failed}; {summary.verdict.level}"


def found(summary: Summary) -> str:
    """Return what a run found, without its failures and its verdict."""
    if summary.capacity is not None:
        return f"capacity {capacity_text(summary.capacity)}"
    if summary.sweep is not None and (best := best_point(summary.sweep)) is not None:
        speed = best.tokens_per_s_per_user.value(FRONT_SPEED)
        per_gpu = best.output_tokens_per_s_per_gpu if (summary.sweep.gpus or 0) > 1 else None
        each = [f"{rounded(value)} a {of}" for value, of in ((per_gpu, "GPU"), (speed, "user")) if value is not None]
        tokens = rounded(best.output_tokens_per_s or 0.0)
        beside = f" ({', '.join(each)})" if each else ""
        return f"{summary.load.brief}: at most {tokens} output tokens/s at {best.name}{beside}"
    most = _busiest(summary.stages)
    if most is not None and summary.edited is None:
        figures = headline(most, most.doubts, summary.protocol)
        return f"{summary.load.brief}, most answers at {most.load_text}: {figures}"
    return f"{summary.load.brief}: {headline(summary, summary.verdict.doubts, summary.protocol)}"


def _busiest(stages: Sequence[StageSummary]) -> StageSummary | None:
    """Return the stage with the most answers a minute; None where none was measured."""
    measured = [(stage.requests_per_min, stage) for stage in stages if stage.requests_per_min is not None]
    return max(measured, key=lambda each: each[0])[1] if measured else None


def headline(figures: Figures, doubts: Sequence[Doubt], protocol: str | None) -> str:
    """Return the figures that a run of this protocol is for, in words, marked where they are in doubt."""
    if protocol == SPEED:
        rate, key, statistic = "output tokens/s a request", "request_output_tokens_per_s", "mean"
    else:
        rate, key, statistic = "requests/min", "requests_per_min", None
    value = figures.value(key, statistic)
    if not value:
        return "nothing measured" if value is None else "no answer"
    text = f"{marked(rounded(value), doubts, key, statistic)} {rate}"
    ttft_s = figures.value("ttft_s", "p95")
    if ttft_s is None:
        return text
    return f"{text}, TTFT p95 {marked(rounded_ms(ttft_s), doubts, 'ttft_s', 'p95')} ms"


def _failed(summary: Summary) -> str:
    failed, ended = summary.requests.failed, summary.requests.completed + summary.requests.failed
    return f"all {counted(failed, 'request')} failed" if failed == ended else f"{percent(failed / ended)} failed"
