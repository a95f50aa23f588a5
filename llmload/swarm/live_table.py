"""The live table of Locust's tab "LLM": a figure a row, of the last seconds and of the run so far."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmload.report.tables import LATENCIES, UNKNOWN, milliseconds, number
from llmload.swarm.live import LAG, PERIOD_S, QUANTILES, SPAN_S

FRESH_S: Final = 3 * PERIOD_S
"""A point older than this says nothing of now."""
COLUMNS: Final = [
    {"key": "figure", "title": "Figure"},
    {"key": "recent", "title": f"Last {SPAN_S:g} s"},
    {"key": "run", "title": "Run"},
]


def rows(state: Mapping[str, Any], point: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return the table's rows; `point` is the run's latest, None where none is fresh."""
    if state["stage"] is None:
        return [_row("Run", run="none yet")]
    now = point or {}
    return [
        *_verdict(state),
        _row("Scenario", run=_name(state)),
        _row("Stage", run=_stage(state)),
        *([] if state["open_loop"] else [_row("Users", str(state["users"]))]),
        _row("In flight", str(state["in_flight"])),
        *(_arrivals(state, now) if state["open_loop"] else ()),
        _row("Requests/min", number(now.get("requests_per_min"), 1), number(state["requests_per_min"], 1)),
        _row("Output tok/s", number(now.get("output_tokens_per_s"), 1), number(state["output_tokens_per_s"], 1)),
        *(
            _row(f"{name} {' / '.join(QUANTILES)}, ms", _quantiles(now.get(key)), _quantiles(state[key]))
            for name, key in LATENCIES.items()
        ),
        *map(_of_stage, state["stages"]),
        _row("Requests", run=", ".join(f"{state[of]} {of}" for of in ("started", "completed", "failed", "censored"))),
        _row("Errors", run=", ".join(f"{name} {count}" for name, count in state["errors"].items()) or "none"),
    ]


def _row(figure: str, recent: str = "", run: str = "") -> dict[str, str]:
    return {"figure": figure, "recent": recent, "run": run}


def _verdict(state: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    verdict = state["verdict"]
    if verdict is None:
        yield _row("Verdict", run="none yet")
        return
    yield _row("Verdict", run=verdict["level"] + ("" if state["stage"] == "ended" else " so far"))
    for reason in verdict["reasons"]:
        yield _row("Reason", run=f"{reason['level']}: {reason['text']}")


def _name(state: Mapping[str, Any]) -> str:
    simulated = " (a simulation)" if state["simulated"] else ""
    return f"{state['scenario']}: {state['model']} on {state['engine']}{simulated}"


def _stage(state: Mapping[str, Any]) -> str:
    since = "" if state["stage"] == "ended" else f", {state['elapsed_s']:.0f} s"
    judged = "nothing judged yet" if state["window_s"] is None else f"{state['window_s']:.1f} s judged"
    return f"{state['stage']}{since}, {judged}"


def _arrivals(state: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    yield _row("Asked rate, req/s", number(state["asked_per_s"]))
    yield _row("Sent, req/s", number(now.get("sent_per_s")))
    yield _row("Dropped, req/s", number(now.get("dropped_per_s")), f"{state['dropped']} in all")
    yield _row(f"Schedule lag {' / '.join(QUANTILES)}, ms", _quantiles(now.get(LAG)), _quantiles(state[LAG]))


def _of_stage(stage: Mapping[str, Any]) -> dict[str, str]:
    asked = f"{stage['users']} users" if stage["users"] else f"{stage['rate_per_s']:g} req/s"
    if stage["judged_s"] is None:
        return _row(f"{stage['name']}, {asked}", run="nothing judged yet")
    ttft = _quantiles(stage["ttft_s"])
    return _row(
        f"{stage['name']}, {asked}",
        run=f"{number(stage['requests_per_min'], 1)} requests/min, {number(stage['output_tokens_per_s'], 1)} tok/s, "
        f"TTFT {ttft} ms, {stage['failed']} failed",
    )


def _quantiles(quantiles: Mapping[str, float | None] | None) -> str:
    if quantiles is None:
        return UNKNOWN
    return " / ".join(milliseconds(quantiles[name]) for name in QUANTILES)
