"""The cost of a run's answers, from the scenario's prices; docs/cost.md has the formulas."""

from typing import Final

from llmload.metrics.totals import RunTotals
from llmload.runs.summary_parts import (
    CostByTime,
    CostByTokens,
    CostShares,
    CostSummary,
    EnergyCost,
)
from llmload.scenario import Scenario
from llmload.units import J_PER_KWH, S_PER_H, significant

THOUSAND: Final = 1000
MILLION: Final = 1_000_000


def cost_of(
    scenario: Scenario, judged: RunTotals, window_s: float | None, *, whole: RunTotals, energy_j: float | None
) -> CostSummary | None:
    """
    Return the cost of the measurement window by time and by tokens, and the energy of the whole run.

    None if the scenario has no price and no energy was measured; each part is None if the scenario lacks its price, and
    each figure if it is not known.
    """
    energy = _energy(scenario, whole, energy_j)
    if scenario.cost is None and energy is None:
        return None
    return CostSummary(
        currency=None if scenario.cost is None else scenario.cost.currency,
        by_time=_by_time(scenario, judged, window_s),
        by_tokens=_by_tokens(scenario, judged),
        energy=energy,
    )


def _by_time(scenario: Scenario, totals: RunTotals, window_s: float | None) -> CostByTime | None:
    cost = scenario.cost
    if cost is None or (cost.price_per_hour is None and cost.price_per_gpu_hour is None):
        return None
    per_hour = cost.price_per_hour or (cost.price_per_gpu_hour or 0.0) * (scenario.deployment.gpus or 0)
    window = per_hour * window_s / S_PER_H if window_s else None
    tokens_known = totals.completed_in_window > 0 and totals.uncounted_answers == 0
    tokens = totals.window_tokens if tokens_known else None
    return CostByTime(per_hour=per_hour, window=window, **_shares(window, totals.completed_in_window, tokens))


def _by_tokens(scenario: Scenario, totals: RunTotals) -> CostByTokens | None:
    cost = scenario.cost
    if cost is None or cost.price_per_million_output_tokens is None or cost.price_per_million_input_tokens is None:
        return None
    answers = sum(totals.token_sources.values())
    counted = min(totals.distributions[name].count for name in ("request_prompt_tokens", "request_output_tokens"))
    window = None
    if answers and counted == answers:
        input_cost = cost.price_per_million_input_tokens * totals.prompt_tokens / MILLION
        window = input_cost + cost.price_per_million_output_tokens * totals.output_tokens / MILLION
    return CostByTokens(window=window, **_shares(window, answers, totals.output_tokens))


def _energy(scenario: Scenario, totals: RunTotals, energy_j: float | None) -> EnergyCost | None:
    if energy_j is None:
        return None
    price = None if scenario.cost is None else scenario.cost.price_per_kwh
    run = None if price is None else price * energy_j / J_PER_KWH
    tokens = None if totals.uncounted_answers else totals.arrived_tokens
    return EnergyCost(
        energy_j=energy_j,
        j_per_request=energy_j / totals.completed if totals.completed else None,
        j_per_output_token=energy_j / tokens if tokens else None,
        run=run,
        **_shares(run, totals.completed, tokens),
    )


def _shares(cost: float | None, answers: int, output_tokens: float | None) -> dict[str, float | None]:
    return {
        "per_1000_requests": None if cost is None or not answers else cost / answers * THOUSAND,
        "per_million_output_tokens": None if cost is None or not output_tokens else cost / output_tokens * MILLION,
    }


def cost_rows(cost: CostSummary | None) -> list[tuple[str, str]]:
    """Return title and text for each known cost and for the energy, for a report."""
    if cost is None:
        return []
    rows = []
    if by_time := cost.by_time:
        rows.append(("cost by time", f"{_priced(by_time, cost)} at {by_time.per_hour:,.2f} an hour"))
    if by_tokens := cost.by_tokens:
        rows.append(("cost by tokens", f"{_priced(by_tokens, cost)}, input included"))
    if energy := cost.energy:
        requests, tokens = significant(energy.j_per_request), significant(energy.j_per_output_token)
        text = f"{requests} J a request, {tokens} J an output token"
        rows.append(("GPU energy", text if energy.run is None else f"{text}; {_priced(energy, cost)}"))
    return rows


def _priced(part: CostShares, cost: CostSummary) -> str:
    requests, tokens = significant(part.per_1000_requests), significant(part.per_million_output_tokens)
    return f"{requests} {cost.currency} per 1,000 requests, {tokens} per million output tokens"
