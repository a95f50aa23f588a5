"""The benchmark of comparisons in short: equal systems pass, slower ones fail, and the virtual engine keeps time."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tools.virtual_engine import Clock, Load, Noise, VirtualEngine, VirtualRequest
from benchmarks.tools.virtual_runs import SETTINGS, System, write_run
from benchmarks.trials.compare.rates import Tally, compare_pairs, wilson
from llmload.compare.comparison import Outcome

STEADY = Noise(wander=0.0, stalls_per_s=0.0)


def test_the_virtual_engine_answers_by_the_simulated_engines_formulas() -> None:
    rng = np.random.default_rng(0)
    clock = Clock.disturbed(STEADY, 100, 1.0, rng)
    engine = VirtualEngine(settings=SETTINGS, load=Load(duration_s=10, users=1), clock=clock, rng=rng)

    answered = engine.answer(VirtualRequest(prompt_id="1", prompt_tokens=100, output_tokens=21) for _ in iter(int, 1))

    for asked, stamps_s in answered:
        assert 0.07 <= stamps_s[0] - asked.started <= 0.07 + 0.02 + 1e-6, "ttft_s + 100 tokens, and the batch's step"
        assert np.diff(stamps_s)[1:] == pytest.approx(0.02)
    assert len(answered) == pytest.approx(10 / (0.08 + 0.4), abs=1)


def test_requests_beyond_the_slots_wait_and_a_full_batch_is_slower() -> None:
    rng = np.random.default_rng(0)
    clock = Clock.disturbed(STEADY, 200, 1.0, rng)
    engine = VirtualEngine(settings=SETTINGS, load=Load(duration_s=30, users=64), clock=clock, rng=rng)

    answered = engine.answer(VirtualRequest(prompt_id="1", prompt_tokens=100, output_tokens=21) for _ in iter(int, 1))

    waits = [stamps_s[0] - asked.started for asked, stamps_s in answered if asked.started > 5]
    gaps = [np.diff(stamps_s)[5:] for asked, stamps_s in answered if asked.started > 5]
    assert np.mean(waits) > 0.5
    assert np.concatenate(gaps).mean() == pytest.approx(0.02 * (1 + 31 / 32), rel=0.02)


@pytest.mark.parametrize("kind", ["all", "decode", "prefill"])
def test_a_slower_system_is_as_slow_as_it_was_made(tmp_path: Path, kind: str) -> None:
    system, load = System(noise=STEADY), Load(duration_s=25, users=4)

    (found,) = compare_pairs(system, system.slower(kind, 0.2), load, pairs=1)

    changes = {finding.metric.name: finding.change for finding in found.findings}
    assert changes["tpot_s mean"] == pytest.approx(0.0 if kind == "prefill" else 0.2, abs=0.01)
    assert changes["ttft_s mean"] == pytest.approx(0.03 if kind == "decode" else 0.19, abs=0.05)


def test_equal_systems_do_not_fail_and_slower_ones_do() -> None:
    system, load = System(noise=Noise(wander=0.01)), Load(duration_s=65, users=8)
    tallies = {name: Tally() for name in ("equal", "slower")}

    for name, candidate in (("equal", system), ("slower", system.slower("all", 0.05))):
        for found in compare_pairs(system, candidate, load, pairs=4):
            tallies[name].add(found)

    assert tallies["equal"].wholes[Outcome.FAIL] == 0
    assert tallies["slower"].wholes[Outcome.FAIL] >= 3


def test_a_run_of_the_virtual_engine_is_a_run_folder(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", System(error_share=0.1), Load(duration_s=15, rate_per_s=4), 1)

    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "requests.jsonl", "summary.json"]


def test_error_rates_have_a_wilson_interval() -> None:
    assert wilson(0, 200) == pytest.approx((0.0, 0.0188), abs=1e-3)
    assert wilson(10, 20) == pytest.approx((0.299, 0.701), abs=1e-3)
