"""Low and high hold every run that is known: those that the bounds come from, and those written down unseen."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.trials.size_bounds import bounds_table, main, observed
from benchmarks.trials.unseen_sizes import SETS, Judged, judged
from tests.sizing.test_fit import GIB, LANGUAGE_RUNS, fit_of_run
from tests.sizing.test_golden import GOLDEN, fit_of

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"
TOWERS = {"gemma3-4b-sglang-h200", "gemma3-27b-vllm-tp4"}  # for images: the catalogue has their language models alone
# A pool and weights of two different runs; a version that is not said.
UNCLEAR = {("glm47-nvfp4-4xpro6000", "pool_gib"), ("qwen3-8b-2xa100", "pool_gib")}
UNSEEN = [
    number
    for name in SETS
    for number in judged(name)
    if number.bounded and number.estimate and number.run not in TOWERS and (number.run, number.quantity) not in UNCLEAR
]
WHOLE = [entry for entry in GOLDEN if "logit_bytes_per_seq_vocab" in entry["given"]]


def test_the_page_has_the_table_that_the_trial_computes_and_two_unclear_runs_are_outside() -> None:
    printed = CliRunner().invoke(main).output

    assert bounds_table(observed()) in PAGE.read_text(encoding="utf-8")
    assert {line.split(",")[0] for line in printed.splitlines() if line.startswith("outside")} == {
        f"outside: {run}" for run, _ in UNCLEAR
    }


def test_all_runs_of_vllm_0_19_have_their_pool_within_low_and_high() -> None:
    whole = [run for run in LANGUAGE_RUNS if run["pipeline_parallel"] == 1]  # else the log's stage is not known

    assert len(whole) == 32
    for run in whole:
        pool = fit_of_run(run).tightest.pool_bytes
        assert pool.low <= run["pool_gib"] * GIB <= pool.high, run["run_of"]


@pytest.mark.parametrize("entry", WHOLE, ids=lambda entry: str(entry["id"]))
def test_all_runs_of_vllm_0_11_have_their_pool_within_low_and_high(entry: dict[str, Any]) -> None:
    pool = fit_of(entry["given"]).tightest.pool_bytes

    assert pool.low <= entry["expect"]["kv_gib"] * GIB <= pool.high


@pytest.mark.parametrize("number", UNSEEN, ids=lambda number: f"{number.run}-{number.quantity}")
def test_all_unseen_runs_are_within_low_and_high(number: Judged) -> None:
    assert number.inside
