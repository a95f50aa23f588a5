"""The cost of answers, as computed by hand, and costs that are unknown."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from llmload.metrics.totals import RunTotals
from llmload.record import Outcome, RequestRecord, Slo, TokenSource, Window
from llmload.runs import costs
from llmload.runs.costs import cost_rows
from llmload.runs.summary_parts import CostSummary, EnergyCost
from llmload.scenario import Scenario, load_scenario
from llmload.units import NS_PER_S

SCENARIO = """
[scenario]
name = "s"
[engine]
name = "vllm"
base_url = "http://127.0.0.1:8000"
[model]
name = "m"
[deployment]
gpus = 4
[monitor]
dcgm_url = "http://127.0.0.1:9400/metrics"
[load]
kind = "closed_loop"
users = 1
requests = 8
[cost]
currency = "EUR"
"""


def scenario(folder: Path, prices: str) -> Scenario:
    file = folder / "s.toml"
    file.write_text(SCENARIO + prices if prices else SCENARIO.partition("[cost]")[0])
    return load_scenario(file)


def totals(answers: int = 10, *, prompt: int | None = 500, output: int | None = 100) -> RunTotals:
    """Answers a second apart, each of one chunk half a second after its start."""
    sums = RunTotals()
    for second in range(answers):
        started_ns = second * NS_PER_S
        sums.started += 1
        record = RequestRecord(
            request_id=str(second),
            prompt_id="1",
            started_ns=started_ns,
            done_ns=started_ns + NS_PER_S // 2,
            outcome=Outcome.COMPLETED,
            chunk_ns=np.array([started_ns + NS_PER_S // 2], dtype=np.int64),
            prompt_tokens=prompt,
            output_tokens=output,
            token_source=TokenSource.USAGE if output else TokenSource.NONE,
        )
        sums.add(record, window=Window(start_ns=0), slo=Slo(), run_start_ns=0)
    return sums


def cost_of(run: Scenario, answered: RunTotals, window_s: float | None, energy_j: float | None) -> CostSummary | None:
    return costs.cost_of(run, answered, window_s, whole=answered, energy_j=energy_j)


def known(found: CostSummary | None) -> CostSummary:
    assert found is not None
    return found


def energy_of(cost: CostSummary) -> EnergyCost:
    assert cost.energy is not None
    return cost.energy


def values(part: BaseModel | None) -> dict[str, Any]:
    assert part is not None
    return part.model_dump()


def test_gpu_hours_are_divided_by_the_answers_in_the_window(tmp_path: Path) -> None:
    """4 GPUs at 2.5 are 10 an hour; 36 s of it are 0.1, for 10 answers and 1,000 output tokens."""
    cost = known(cost_of(scenario(tmp_path, "price_per_gpu_hour = 2.5"), totals(), 36.0, None))

    assert cost.currency == "EUR"
    assert values(cost.by_time) == pytest.approx(
        {"per_hour": 10.0, "window": 0.1, "per_1000_requests": 10.0, "per_million_output_tokens": 100.0}
    )
    assert (cost.by_tokens, cost.energy) == (None, None)


def test_tokens_cost_by_the_tariff(tmp_path: Path) -> None:
    """5,000 tokens in at 2 and 1,000 out at 8 a million are 0.018."""
    prices = "price_per_million_input_tokens = 2.0\nprice_per_million_output_tokens = 8.0"
    cost = known(cost_of(scenario(tmp_path, prices), totals(), 36.0, None))

    assert values(cost.by_tokens) == pytest.approx(
        {"window": 0.018, "per_1000_requests": 1.8, "per_million_output_tokens": 18.0}
    )


def test_energy_is_reported_without_a_price_and_priced_with_one(tmp_path: Path) -> None:
    """36,000 J are 0.01 kWh: 0.003 at 0.3."""
    energy_j = 36_000.0
    free = known(cost_of(scenario(tmp_path, ""), totals(), 36.0, energy_j))
    paid = known(cost_of(scenario(tmp_path, "price_per_kwh = 0.3"), totals(), 36.0, energy_j))

    assert (energy_of(free).j_per_request, energy_of(free).j_per_output_token) == (3600.0, 36.0)
    assert (free.currency, energy_of(free).run, energy_of(free).per_1000_requests) == (None, None, None)
    assert energy_of(paid).run == pytest.approx(0.003)
    assert energy_of(paid).per_1000_requests == pytest.approx(0.3)
    assert cost_rows(free) == [("GPU energy", "3,600 J a request, 36 J an output token")]


def test_without_prices_and_energy_there_is_no_cost(tmp_path: Path) -> None:
    assert cost_of(scenario(tmp_path, ""), totals(), 36.0, None) is None
    assert cost_of(scenario(tmp_path, ""), totals(), 36.0, None) is None
    assert cost_rows(None) == []


@pytest.mark.parametrize(
    ("answered", "window_s", "unknown"),
    [
        (totals(output=None), 36.0, {"per_million_output_tokens"}),
        (totals(answers=0), 36.0, {"per_million_output_tokens", "per_1000_requests"}),
        (totals(), None, {"window", "per_million_output_tokens", "per_1000_requests"}),
    ],
)
def test_the_cost_of_unmeasured_figures_is_unknown(
    answered: RunTotals, window_s: float | None, unknown: set[str], tmp_path: Path
) -> None:
    cost = known(cost_of(scenario(tmp_path, "price_per_hour = 10.0"), answered, window_s, None))

    assert {name for name, value in values(cost.by_time).items() if value is None} == unknown
    assert "n/a" in cost_rows(cost)[0][1]


def test_cost_by_tokens_is_unknown_without_prompt_tokens(tmp_path: Path) -> None:
    prices = "price_per_million_input_tokens = 2.0\nprice_per_million_output_tokens = 8.0"
    cost = known(cost_of(scenario(tmp_path, prices), totals(prompt=None), 36.0, None))

    assert set(values(cost.by_tokens).values()) == {None}


@settings(deadline=None, max_examples=30)
@given(price=st.floats(0.01, 1e4), window_s=st.floats(1, 1e6), answers=st.integers(1, 30))
def test_all_answers_together_cost_the_window(
    price: float, window_s: float, answers: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = scenario(tmp_path_factory.getbasetemp(), f"price_per_hour = {price!r}")
    by_time = values(known(cost_of(run, totals(answers), window_s, None)).by_time)

    assert by_time["window"] == pytest.approx(price * window_s / 3600)
    assert by_time["per_1000_requests"] * answers / 1000 == pytest.approx(by_time["window"])
    assert by_time["per_million_output_tokens"] * answers * 100 / 1e6 == pytest.approx(by_time["window"])
