"""Numbers of real engines that were written down before the sizing was run on them."""

import re
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.trials.unseen_sizes import SETS, forecast, judged, main, model_of, runs, summary
from llmload.sizing.parallelism import ONE_GPU, rank_counts
from llmload.sizing.weights import format_of, weights_bytes
from llmload.units import GIB

PAGE = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text(encoding="utf-8")
LINES = {"first": "after", "second": "now"}


def test_the_trial_prints_every_number_and_both_counts_of_the_second_set() -> None:
    printed = CliRunner().invoke(main).output

    for name in SETS:
        assert summary(judged(name)) in printed
    assert summary(forecast()) in printed


@pytest.mark.parametrize("name", sorted(SETS))
def test_at_least_as_many_unseen_numbers_are_held_as_the_page_says(name: str) -> None:
    counts = Counter(number.verdict for number in judged(name))
    said = re.search(rf"{LINES[name]} +{counts.total()} numbers: (\d+) held, (\d+) off", PAGE)
    assert said

    assert counts["held"] >= int(said[1])
    assert counts["off"] <= int(said[2])


def test_states_of_drafts_and_kept_prefixes_are_counted_as_vllm_prints_them() -> None:
    found = {number.run: number for number in judged("second") if number.quantity == "concurrency_of_pool"}

    for run in (
        "qwen38-27b-fp8-mtp-pro6000",
        "qwen38-27b-gfx906-mtp",
        "qwen38-27b-int4-2x3090-128k",
        "qwen38-27b-int4-2x3090-256k",
    ):
        estimate = found[run].estimate
        assert estimate is not None
        assert round(estimate.best, 2) == found[run].logged


@pytest.mark.parametrize(("mix", "gib", "fraction"), [("Q8_0", 26.62, 0.001), ("Q4_K_M", 15.65, 0.02)])
def test_files_of_a_gated_delta_rule_have_the_bytes_that_llama_cpp_prints(
    mix: str, gib: float, fraction: float
) -> None:
    model = model_of(next(run for run in runs("second") if run["id"] == "qwen36-27b-llamacpp-q4km"))

    assert weights_bytes(rank_counts(model, ONE_GPU), format_of(model, mix)) == pytest.approx(gib * GIB, rel=fraction)


def test_the_page_has_the_forecast_as_it_was() -> None:
    assert f"forecast {summary(forecast())}" in PAGE


@pytest.mark.parametrize("name", sorted(SETS))
def test_each_unseen_run_has_a_source_and_a_number(name: str) -> None:
    for run in runs(name):
        assert run["source"].startswith(("https://", "stored file index id "))
        assert run["logged"]
