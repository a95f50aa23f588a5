"""Parameter counts against those of 60 published models and against hand counts."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmload.sizing.catalogue import load_model, model_entries
from llmload.sizing.parameters import count_parameters
from llmload.sizing.weights import default_format

EXPECTED = json.loads((Path(__file__).parent / "data" / "model_counts.json").read_text())


def test_the_catalogue_has_the_sixty_models_whose_counts_are_known() -> None:
    assert set(EXPECTED) <= {entry["name"] for entry in model_entries()}
    assert len(EXPECTED) == 60


NEWER = [entry for entry in model_entries() if entry["name"] not in EXPECTED]


@pytest.mark.parametrize("entry", NEWER, ids=lambda entry: str(entry["name"]))
def test_newer_models_have_what_was_published_but_for_a_layer_that_drafts(
    entry: dict[str, Any],
) -> None:
    model = load_model(entry["name"])
    counted = count_parameters(model).total + model.image_tower

    assert load_model(entry["hf_id"].upper()) == model
    assert default_format(model)
    least = 0.95 if "drafts" in entry["published_source"] else 0.99
    assert least < counted / entry["published_params"] < 1.01


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_counts_computed_from_the_config_equal_the_known_ones_to_the_parameter(name: str) -> None:
    counts = count_parameters(load_model(name))
    computed = {
        "total": counts.total,
        "embed": counts.embed,
        "lm_head": counts.lm_head,
        "backbone": counts.backbone,
        "active": counts.active,
        "expert": counts.experts,
        "router": counts.router,
        "norms": counts.norms,
        "decode_params": counts.read_per_token,
    }

    expected = {key: value for key, value in EXPECTED[name].items() if key in computed}
    assert {key: computed[key] for key in expected} == expected


def test_the_parts_of_llama_2_7b_are_what_its_shapes_give_by_hand() -> None:
    counts = count_parameters(load_model("llama-2-7b"))

    assert counts.embed == 32000 * 4096
    assert counts.attention == 32 * 4 * 4096 * 4096
    assert counts.mlp == 32 * 3 * 4096 * 11008
    assert counts.norms == (2 * 32 + 1) * 4096
    assert counts.lm_head == 32000 * 4096
    assert (counts.experts, counts.router) == (0, 0)


def test_parts_add_up_to_the_total_for_every_model() -> None:
    for name in [entry["name"] for entry in model_entries()]:
        counts = count_parameters(load_model(name))
        parts = counts.embed + counts.attention + counts.mlp + counts.experts + counts.router + counts.norms

        assert parts + counts.lm_head == counts.total
        assert counts.backbone == counts.total - counts.lm_head


def test_a_dense_model_is_wholly_active_and_mixtral_leaves_six_of_eight_experts_idle() -> None:
    dense = count_parameters(load_model("Qwen3-32B"))
    sparse = count_parameters(load_model("Mixtral-8x7B-Instruct-v0.1"))

    assert dense.active == dense.total
    assert sparse.idle_experts * 8 == sparse.experts * 6


def test_tied_embeddings_are_counted_once_and_read_whole_for_each_token() -> None:
    counts = count_parameters(load_model("Llama-3.2-1B-Instruct"))

    assert counts.lm_head == 0
    assert counts.read_per_token == counts.total
