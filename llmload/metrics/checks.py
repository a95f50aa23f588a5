"""The checks of a run: limits, each with its reason, the figures that it spoils and its remedy; the verdict of them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from llmload.metrics.doubts import (
    FEW_VALUES,
    effects,
    few_values,
    is_relied_on,
    name_of,
    undecided_gates,
)
from llmload.metrics.effects import DEGRADED_PART, EFFECTS
from llmload.metrics.objective import Objective
from llmload.metrics.requests import REQUEST_DISTRIBUTIONS
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import ALL, Doubt, Level, Reason, Verdict, check_in_words
from llmload.units import code, markdown_table, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A figure of the run's health, and the limits beyond which the figures that it spoils are DEGRADED or INVALID."""

    name: str
    unit: str
    degraded_above: float | None
    invalid_above: float | None
    why: str
    remedy: str
    """A command's options, or what to do."""
    figures: tuple[str, ...] = ALL
    """The figures that it spoils, as `Reason.figures` has them."""
    against_e2e: bool = False
    """Whether the limits are at least 5 % of the median e2e latency (DEGRADED), and all of it (INVALID)."""

    def limits(self, totals: RunTotals) -> tuple[tuple[Level, float], ...]:
        """Return the limits of a run, the gravest first."""
        e2e_s = (totals.distributions["e2e_s"].quantile(0.5) or 0.0) if self.against_e2e else 0.0
        found = (
            (Level.INVALID, self.invalid_above, e2e_s),
            (Level.DEGRADED, self.degraded_above, DEGRADED_PART * e2e_s),
        )
        return tuple((level, max(limit, least)) for level, limit, least in found if limit is not None)


THROUGHPUT: Final = ("requests_per_min", "goodput_per_min", "output_tokens_per_s")
SINCE_SCHEDULE: Final = ("ttft_from_schedule_s", "e2e_from_schedule_s")
OF_REASONING: Final = ("ttfa_s", "thinking_s", "answer_tpot_s")
LATENCIES: Final = ("ttft_s", "itl_s", "tpot_s", "e2e_s", *SINCE_SCHEDULE, *OF_REASONING)
TOKEN_COUNTS: Final = ("output_tokens", "request_output_tokens")
TOKEN_RATES: Final = ("output_tokens_per_s", "request_output_tokens_per_s")
OF_A_CACHE: Final = (
    "ttft_s",
    "ttft_from_schedule_s",
    "ttfa_s",
    "e2e_s",
    "e2e_from_schedule_s",
    "request_output_tokens_per_s",
    *THROUGHPUT,
    "goodput_share",
)

CHECKS: Final = (
    Check(
        name="error_share",
        unit="of requests",
        degraded_above=0.0,
        invalid_above=None,
        why="failed requests have no latency, and a failing engine answers the others faster",
        remedy="read the errors, mend the engine or lower the load",
    ),
    Check(
        name="censored_share",
        unit="of requests",
        degraded_above=0.0,
        invalid_above=0.1,
        why="requests cut at the end are the slow ones, so the others look faster",
        remedy="--set run.drain_timeout_s=300, or a lower load",
        figures=(*LATENCIES, "request_output_tokens_per_s"),
    ),
    Check(
        name="event_loop_lag_p99_s",
        unit="s",
        degraded_above=0.050,
        invalid_above=1.0,
        against_e2e=True,
        why="a client that is late by more than 5 % of what a request takes sends fewer than the engine could answer",
        remedy="--processes 2, or a machine apart from the engine's",
        figures=THROUGHPUT,
    ),
    Check(
        name="schedule_lag_p99_s",
        unit="s",
        degraded_above=0.010,
        invalid_above=0.250,
        against_e2e=True,
        why="requests that are late by more than 5 % of what one takes meet others in the engine than they should",
        remedy="--processes 2, or a machine apart from the engine's",
    ),
    Check(
        name="dropped_share",
        unit="of arrivals",
        degraded_above=0.0,
        invalid_above=0.05,
        why="arrivals beyond max_in_flight were not sent, so the load was lighter than the scenario's",
        remedy="a lower rate, or --set load.max_in_flight with a higher number",
    ),
    Check(
        name="concurrency_shortfall",
        unit="of users",
        degraded_above=0.05,
        invalid_above=0.25,
        why="fewer requests were in flight than there are users, so the load was lighter than the scenario's",
        remedy="--processes 2, or a machine apart from the engine's",
    ),
    Check(
        name="window_edges",
        unit="of the answers",
        degraded_above=1 / 3,
        invalid_above=None,
        why="each edge of the window cuts the answer that a user waits for, and a user had fewer than three in it",
        remedy="a longer run",
        figures=THROUGHPUT,
    ),
    Check(
        name="worker_cpu_share",
        unit="of a core",
        degraded_above=0.90,
        invalid_above=None,
        why="a load generator near a whole core limits requests/min itself",
        remedy="--processes 2, or a machine apart from the engine's",
        figures=THROUGHPUT,
    ),
    Check(
        name="client_closed_window_share",
        unit="of requests",
        degraded_above=0.01,
        invalid_above=None,
        why="the client took no more bytes, so the engine's had to wait; a p99 is of one request in a hundred",
        remedy="--processes 2, or a machine apart from the engine's",
        figures=("itl_s", "tpot_s", *OF_REASONING, "e2e_s", "e2e_from_schedule_s", "request_output_tokens_per_s"),
    ),
    Check(
        name="missed_length_share",
        unit="of requests",
        degraded_above=0.01,
        invalid_above=None,
        why="their prompts or answers do not have the tokens that were requested, so the workload is another",
        remedy="see requested and counted tokens; --set prompts.exact_output=false where an engine takes neither "
        "ignore_eos nor min_tokens, so that answers have a limit alone",
    ),
    Check(
        name="missed_token_share",
        unit="of the requested tokens",
        degraded_above=0.005,
        invalid_above=0.05,
        why="prompts or answers are so much longer or shorter than requested, so the workload is another",
        remedy="see requested and counted tokens; --set prompts.exact_output=false where an engine takes neither "
        "ignore_eos nor min_tokens, so that answers have a limit alone",
    ),
    Check(
        name="hidden_reasoning_share",
        unit="of answers",
        degraded_above=0.01,
        invalid_above=None,
        why="the engine counted reasoning tokens and sent none apart: TTFT has their time, unless the text has them",
        remedy="--set request.reasoning=tags where they are between <think> tags, or have the engine stream its "
        "reasoning (vLLM: include_reasoning, on by default)",
        figures=("ttft_s", "ttft_from_schedule_s", "tpot_s"),
    ),
    Check(
        name="only_reasoning_share",
        unit="of answers",
        degraded_above=0.0,
        invalid_above=None,
        why="these ended while the model still reasoned, so the time to the answer is that of the others",
        remedy="--max-tokens with a higher number",
        figures=OF_REASONING,
    ),
    Check(
        name="contradicted_share",
        unit="of answers",
        degraded_above=0.01,
        invalid_above=None,
        why="the engine counted fewer tokens than it sent chunks with text, so its count is wrong",
        remedy="--set request.include_usage=false counts chunks instead",
        figures=(*TOKEN_COUNTS, *TOKEN_RATES, "tpot_s", "answer_tpot_s"),
    ),
    Check(
        name="cached_token_share",
        unit="of prompt tokens",
        degraded_above=0.05,
        invalid_above=None,
        why="prompts answered from the prefix cache cost the engine less than new ones",
        remedy="--set prompts.salt=request",
        figures=OF_A_CACHE,
    ),
    Check(
        name="uncounted_share",
        unit="of answers",
        degraded_above=0.0,
        invalid_above=0.5,
        why="answers without a token count are missing from tokens/s",
        remedy="--set request.include_usage=true",
        figures=(*TOKEN_COUNTS, *TOKEN_RATES, "tpot_s", "answer_tpot_s"),
    ),
    Check(
        name="chunk_counted_share",
        unit="of answers",
        degraded_above=0.0,
        invalid_above=None,
        why="chunks were counted as tokens, and an engine may put several tokens in a chunk or none",
        remedy="--set request.include_usage=true",
        figures=(*TOKEN_COUNTS, *TOKEN_RATES, "tpot_s", "answer_tpot_s"),
    ),
    Check(
        name="reused_prompt_share",
        unit="of requests",
        degraded_above=0.0,
        invalid_above=None,
        why="a prompt sent before may be answered from the engine's prefix cache",
        remedy="--set prompts.repeat=salted, or more prompts",
        figures=OF_A_CACHE,
    ),
    Check(
        name="missing_workers",
        unit="workers",
        degraded_above=None,
        invalid_above=0.0,
        why="a worker that was lost or left sent only a part of its load, and what it had in flight may be missing",
        remedy="see the worker's log; run again",
    ),
    Check(
        name="paused_s",
        unit="s",
        degraded_above=3.0,
        invalid_above=None,
        why="the process that ends the load and its stages did nothing for this long, so they ended late",
        remedy="do not stop it or let the machine sleep; leave it a processor",
    ),
    Check(
        name="late_workers",
        unit="workers",
        degraded_above=0.0,
        invalid_above=None,
        why="a worker that connected after the start takes no part, so fewer processes sent than there are",
        remedy="start the workers first, and --expect-workers with their number",
    ),
    Check(
        name="other_version_workers",
        unit="workers",
        degraded_above=0.0,
        invalid_above=None,
        why="another version of llmload may count differently",
        remedy="install the same version everywhere",
    ),
)


def judge(
    figures: Mapping[str, float | None],
    further: Iterable[Reason] = (),
    *,
    totals: RunTotals | None = None,
    relied_on: Collection[str] | None = None,
    gates: Collection[Objective] = (),
) -> Verdict:
    """
    Return the verdict of a run: its checks, the effects that its totals show, and percentiles of few values.

    A figure of `figures` that is None is unknown and gives no reason. What spoils none of the figures that are relied
    on (None: all are) or in a gate marks its figures, and does not lower the level. A further reason of a check's name
    is used instead of the check's own. KeyError for a figure without a check.
    """
    totals = totals or RunTotals()
    reasons, doubts = [*further], list[Doubt]()
    with_gates = None if relied_on is None else (*relied_on, *(gate.name for gate in gates))
    said = {reason.check for reason in reasons}
    for name, figure in figures.items():
        reason = None if figure is None or name in said else _exceeded(_CHECKS[name], figure, totals)
        if reason is not None:
            doubts += _doubts(reason, totals)
            reasons += [reason] if is_relied_on(reason.figures, with_gates) else []
    for sized, reason in effects(totals, relied_on, gates):
        doubts += sized
        reasons += [] if reason is None else [reason]
    doubts += few_values(totals)
    return Verdict.of((*reasons, *undecided_gates(gates, doubts)), doubts)


_CHECKS: Final = {check.name: check for check in CHECKS}


def _exceeded(check: Check, figure: float, totals: RunTotals) -> Reason | None:
    """Return the reason of a check whose limit the figure exceeds; None where it does not."""
    for level, limit in check.limits(totals):
        if figure > limit:
            found = f"{check_in_words(check.name)} {figure:.4g} {check.unit}, limit {limit:.4g}"
            text = f"{found}: {check.why}: {check.remedy}"
            return Reason(check=check.name, level=level, figure=figure, limit=limit, text=text, figures=check.figures)
    return None


def _doubts(reason: Reason, totals: RunTotals) -> Iterator[Doubt]:
    """Yield the figures that a reason spoils; none of the whole run's, whose level says so, or of what has no value."""
    for figure in reason.figures if reason.figures != ALL else ():
        if figure not in totals.distributions or totals.measures(figure):
            yield Doubt(figure=figure, statistic=None, check=reason.check, text=_CHECKS[reason.check].why)


def failed_requests(totals: RunTotals) -> list[Reason]:
    """Return the reason of requests that failed, with the most frequent words: INVALID where all did; none or one."""
    if not totals.failed:
        return []
    share = totals.failed / totals.ended
    every = f"all {totals.failed} requests" if totals.failed == totals.ended else f"{percent(share)} of requests"
    text, most = f"{every} failed", totals.failures.most_common(1)
    for each in most:
        often = f", {each.count} of {totals.failed} with" if each.count < totals.failed else ":"
        text += f"{often} {each}: {each.remedy}"
    none_in_window = totals.failed_in_window and not totals.completed_in_window
    level = Level.INVALID if none_in_window or not totals.completed else Level.DEGRADED
    return [Reason(check="error_share", level=level, figure=share, limit=0.0, text=text)]


def checks_of(figure: str) -> list[str]:
    """Return the names of all checks that may doubt a figure."""
    own = [check.name for check in CHECKS if check.figures != ALL and is_relied_on(check.figures, (figure,))]
    effects_of = [effect.name for effect in EFFECTS if figure in effect.figures]
    return [*own, *effects_of, *([FEW_VALUES] if figure in REQUEST_DISTRIBUTIONS else [])]


def table() -> str:
    """Return all checks as the table in docs/verdict.md."""
    rows = [
        [
            code(check.name),
            _figures_text(check),
            _limit_text(check, check.degraded_above),
            _limit_text(check, check.invalid_above),
            f"{check.why}: {check.remedy}",
        ]
        for check in CHECKS
    ]
    rows += [
        [
            code(effect.name),
            ", ".join(map(name_of, effect.figures)),
            f"{DEGRADED_PART:.0%} of the figure",
            "",
            f"{effect.why}: {effect.remedy}",
        ]
        for effect in EFFECTS
    ]
    return markdown_table(["check", "figures", "DEGRADED above", "INVALID above", "why, and what to do"], rows) + "\n"


def _figures_text(check: Check) -> str:
    return "all" if check.figures == ALL else ", ".join(map(name_of, check.figures))


def _limit_text(check: Check, limit: float | None) -> str:
    return "" if limit is None else f"{limit:.3g} {check.unit}"


def lengths_missed_by(names: Mapping[str, RunTotals]) -> list[Reason]:
    """Return the reasons of requests of a name that miss their lengths, each check's of the name that misses most."""
    reasons = []
    for check in _missed(RunTotals()):
        found = ((_missed(totals)[check], name, totals) for name, totals in names.items())
        known = [(figure, name, totals) for figure, name, totals in found if figure is not None]
        if known:
            figure, name, totals = max(known, key=lambda each: each[0])
            reason = _exceeded(_CHECKS[check], figure, totals)
            reasons += [] if reason is None else [reason.model_copy(update={"text": f"of {name!r}, {reason.text}"})]
    return reasons


def _missed(totals: RunTotals) -> dict[str, float | None]:
    """Return how far lengths are missed; None where none were requested."""
    kept = [each for each in totals.lengths_kept if each is not None]
    return {
        "missed_length_share": max((each.missed_share for each in kept), default=None),
        "missed_token_share": max((each.off_share for each in kept), default=None),
    }


def health(totals: RunTotals) -> dict[str, float | None]:
    """Return the figures of the checks that need only totals; None is unknown."""
    answers = sum(totals.token_sources.values())
    return {
        "error_share": _share(totals.failed, totals.ended),
        "censored_share": _share(totals.censored, totals.ended),
        "event_loop_lag_p99_s": totals.distributions["event_loop_lag_s"].quantile(0.99),
        "schedule_lag_p99_s": totals.distributions["schedule_lag_s"].quantile(0.99),
        "dropped_share": _share(totals.dropped, totals.dropped + totals.started),
        "uncounted_share": _share(totals.uncounted_answers, answers),
        "chunk_counted_share": _share(totals.token_sources["chunks"], answers),
        "client_closed_window_share": _share(
            totals.client_closed_windows, totals.ended if totals.stamp_sources["packet"] else 0
        ),
        "contradicted_share": _share(totals.contradicted_answers, answers),
        "hidden_reasoning_share": _share(totals.hidden_reasoning_answers, answers),
        "only_reasoning_share": _share(totals.only_reasoning_answers, answers),
        **_missed(totals),
        "reused_prompt_share": _share(totals.reused_prompts, totals.started),
        "cached_token_share": totals.cached_token_share,
    }


def _share(part: float, of: int) -> float | None:
    return part / of if of else None
