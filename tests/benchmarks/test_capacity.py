"""The benchmark's engines have the capacity that it computes, and it asks for searches that can be made."""

import pytest

from benchmarks.trials.capacity import KINDS, Kind, engine_of, load_of
from llmload.scenario.capacity import Capacity


@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_draws_an_engine_that_can_be_searched(kind: Kind) -> None:
    for seed in range(1, 30):
        known = engine_of(kind, seed)
        load = Capacity.model_validate({"kind": "capacity", **load_of(kind, known)})
        settings = known.settings()

        assert load.lowest <= known.truth(kind) <= load.at_most
        assert settings.ttft_s + (known.output_tokens - 1) * settings.itl_s == pytest.approx(known.service_s)
        assert known.slack_s < known.service_s / known.slots or kind == "rate_per_s"


def test_the_truth_is_the_closed_form() -> None:
    known = engine_of("users", 1)

    assert known.truth("users") == known.slots
    assert known.truth("rate_per_s") == pytest.approx(known.slots / known.service_s)
