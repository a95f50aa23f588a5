"""The live table of Locust's tab "LLM": a figure a row, of the last seconds and of the run so far."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import gevent

from llmload.formatting import UNKNOWN, milliseconds, number
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.phases import PhaseTimeline
from llmload.metrics.totals import RunTotals
from llmload.report.terminal import LATENCIES
from llmload.stats.histogram import Histogram
from llmload.units import S_PER_MIN

# The run as it goes on: a point a second, of what the last ten seconds brought.

PERIOD_S: Final = 1.0
SPAN_S: Final = 10.0
"""What a point looks back on: longer than the three seconds between two reports of a worker."""
POINTS_KEPT: Final = 3_600
LIVE_LATENCIES: Final = ("ttft_s", "itl_s", "tpot_s", "e2e_s")
LAG: Final = "schedule_lag_s"
QUANTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class LiveView:
    """
    Keeps the points of a run for charts and tables; `watch` fills it until killed.

    A point is `{t_s, users, in_flight, requests_per_min, output_tokens_per_s, failed_per_min, asked_per_s, sent_per_s,
    dropped_per_s, ttft_s, itl_s, tpot_s, e2e_s, schedule_lag_s}`, the last five `{p50, p95, p99}` or None; what nothing
    is known of is None.
    """

    def __init__(
        self,
        coordinator: RunCoordinator,
        totals: Callable[[], RunTotals],
        users: Callable[[], int],
        check_workers: Callable[[], None] = lambda: None,
        stages: Callable[[], dict[str, RunTotals]] = dict,
        asked_per_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Read totals, users, stages and the open loop's rate when asked; call `check_workers` each second besides."""
        self._steering, self._totals, self._users, self._look_after = coordinator, totals, users, check_workers
        self._stages, self._asked_per_s = stages, asked_per_s
        self._past: deque[tuple[float, RunTotals]] = deque()
        self._points: deque[dict[str, Any]] = deque(maxlen=POINTS_KEPT)

    def watch(self) -> None:
        """Add a point each second."""
        while True:
            gevent.sleep(PERIOD_S)
            self._look_after()
            self.add_point()

    def add_point(self) -> None:
        """Add the point of this moment."""
        self._steering.note_users(self._users())
        now_s = self._steering.elapsed_s
        now = RunTotals()
        now.merge(self._totals())
        self._past.append((now_s, now))
        while len(self._past) > 2 and self._past[1][0] <= now_s - SPAN_S:
            self._past.popleft()
        then_s, then = self._past[0]
        self._points.append(self._point(now_s, now, now_s - then_s, then))

    def _point(self, now_s: float, now: RunTotals, span_s: float, then: RunTotals) -> dict[str, Any]:
        def per_s(name: str) -> float | None:
            return (getattr(now, name) - getattr(then, name)) / span_s if span_s else None

        def per_min(name: str) -> float | None:
            rate = per_s(name)
            return None if rate is None else rate * S_PER_MIN

        return {
            "t_s": now_s,
            "users": self._users(),
            "in_flight": now.in_flight,
            "requests_per_min": per_min("completed"),
            "failed_per_min": per_min("failed"),
            "output_tokens_per_s": per_s("arrived_tokens"),
            "asked_per_s": self._asked_now(),
            "sent_per_s": per_s("started"),
            "dropped_per_s": per_s("dropped"),
            **{
                name: _quantiles(now.distributions[name].since(then.distributions[name]))
                for name in (*LIVE_LATENCIES, LAG)
            },
        }

    def _asked_now(self) -> float | None:
        return None if self._steering.stage in {"draining", "ended"} else self._asked_per_s()

    def points(self, after_s: float = -1.0) -> list[dict[str, Any]]:
        """Return the points after a moment, in seconds since the run's start."""
        return [point for point in self._points if point["t_s"] > after_s]

    def state(self) -> dict[str, Any]:
        """Return where the run stands: its names, counts, window figures so far, errors and verdict."""
        totals, coordinator = self._totals(), self._steering
        scenario = coordinator.scenario
        window_s = coordinator.span.length_s(totals)
        return {
            "run_id": coordinator.run_id,
            "scenario": scenario.scenario.name,
            "engine": scenario.engine.display_name,
            "model": scenario.model.name,
            "simulated": coordinator.simulated,
            "stage": coordinator.stage,
            "open_loop": scenario.load.is_open_loop,
            "elapsed_s": coordinator.elapsed_s,
            "users": self._users(),
            "in_flight": totals.in_flight,
            "started": totals.started,
            "completed": totals.completed,
            "failed": totals.failed,
            "censored": totals.censored,
            "dropped": totals.dropped,
            "asked_per_s": self._asked_now(),
            "errors": dict(totals.errors.most_common()),
            "window_s": window_s,
            "requests_per_min": totals.completed_in_window / window_s * S_PER_MIN if window_s else None,
            "output_tokens_per_s": totals.window_tokens / window_s if window_s else None,
            **{name: _quantiles(totals.distributions[name]) for name in (*LIVE_LATENCIES, LAG)},
            "stages": [] if coordinator.timeline is None else self._stage_rows(coordinator.timeline),
            "verdict": coordinator.verdict(totals).model_dump(mode="json"),
        }

    def _stage_rows(self, clock: PhaseTimeline) -> list[dict[str, Any]]:
        """Return what each stage that has begun has come to so far, and when it began."""
        stages = self._stages()
        return [
            _stage(stages.get(phase.name, RunTotals()), clock.measured_s(phase.name))
            | {"name": phase.name, "begin_s": begin_s, "users": phase.users, "rate_per_s": phase.rate_per_s}
            for phase in clock.phases
            if (begin_s := clock.begin_s(phase.name)) is not None
        ]


def _stage(totals: RunTotals, judged_s: float | None) -> dict[str, Any]:
    return {
        "judged_s": judged_s,
        "requests_per_min": totals.completed_in_window / judged_s * S_PER_MIN if judged_s else None,
        "output_tokens_per_s": totals.window_tokens / judged_s if judged_s else None,
        "failed": totals.failed,
        **{name: _quantiles(totals.distributions[name]) for name in LIVE_LATENCIES},
    }


def _quantiles(histogram: Histogram) -> dict[str, float | None] | None:
    if not histogram.count:
        return None
    return {name: histogram.quantile(share) for name, share in QUANTILES.items()}


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
        _row("Stage", run=_stage_text(state)),
        *([] if state["open_loop"] else [_row("Users", str(state["users"]))]),
        _row("In flight", str(state["in_flight"])),
        *(_arrivals(state, now) if state["open_loop"] else ()),
        _row("Requests/min", number(now.get("requests_per_min"), 1), number(state["requests_per_min"], 1)),
        _row("Output tok/s", number(now.get("output_tokens_per_s"), 1), number(state["output_tokens_per_s"], 1)),
        *(
            _row(f"{name} {' / '.join(QUANTILES)}, ms", _quantiles_text(now.get(key)), _quantiles_text(state[key]))
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


def _stage_text(state: Mapping[str, Any]) -> str:
    since = "" if state["stage"] == "ended" else f", {state['elapsed_s']:.0f} s"
    judged = "nothing judged yet" if state["window_s"] is None else f"{state['window_s']:.1f} s judged"
    return f"{state['stage']}{since}, {judged}"


def _arrivals(state: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    yield _row("Asked rate, req/s", number(state["asked_per_s"]))
    yield _row("Sent, req/s", number(now.get("sent_per_s")))
    yield _row("Dropped, req/s", number(now.get("dropped_per_s")), f"{state['dropped']} in all")
    yield _row(f"Schedule lag {' / '.join(QUANTILES)}, ms", _quantiles_text(now.get(LAG)), _quantiles_text(state[LAG]))


def _of_stage(stage: Mapping[str, Any]) -> dict[str, str]:
    asked = f"{stage['users']} users" if stage["users"] else f"{stage['rate_per_s']:g} req/s"
    if stage["judged_s"] is None:
        return _row(f"{stage['name']}, {asked}", run="nothing judged yet")
    ttft = _quantiles_text(stage["ttft_s"])
    return _row(
        f"{stage['name']}, {asked}",
        run=f"{number(stage['requests_per_min'], 1)} requests/min, {number(stage['output_tokens_per_s'], 1)} tok/s, "
        f"TTFT {ttft} ms, {stage['failed']} failed",
    )


def _quantiles_text(quantiles: Mapping[str, float | None] | None) -> str:
    if quantiles is None:
        return UNKNOWN
    return " / ".join(milliseconds(quantiles[name]) for name in QUANTILES)
