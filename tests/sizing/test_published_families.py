"""Models of newer families against what was published of them: parameters, caches, states."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmload.sizing.architecture import ModelSpec
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.kv_cache import KvCache
from llmload.sizing.parameters import count_parameters
from llmload.sizing.weights import default_format, format_of, weights_bytes
from llmload.units import GB, GIB

DOCUMENT = json.loads((Path(__file__).parent / "data" / "published_families.json").read_text())
ENTRIES = DOCUMENT["entries"]
MIB = 2**20


def hub_parameters(model: ModelSpec, entry: Mapping[str, Any]) -> int:
    """All that a checkpoint has: the language model, its tower for images and its layer for drafts."""
    total = count_parameters(model).total + model.image_tower
    if "draft" not in entry:
        return total
    hidden = model.hidden_size
    last = count_parameters(replace(model, decoder=model.decoder[-1:])).layers - hidden  # less the final norm
    tables = 2 * model.vocab_size * hidden * bool(entry["draft"]["own_tables"])
    return total + last + 2 * hidden * hidden + 3 * hidden + tables


def cache_gib(model: ModelSpec, entry: Mapping[str, Any]) -> float:
    kv = entry["kv"]
    cache = KvCache(model=model, element_bytes=kv.get("element_bytes", 2), tensor_parallel=kv.get("tensor", 1))
    return float(kv["tokens"] * cache.bytes_per_token / GIB)


def weights_gb(model: ModelSpec, _entry: Mapping[str, Any]) -> float:
    return weights_bytes(count_parameters(model), format_of(model, default_format(model))) / GB


DERIVED: Mapping[str, Callable[[ModelSpec, Mapping[str, Any]], float]] = {
    "hub_params": hub_parameters,
    "params": lambda model, _entry: count_parameters(model).total,
    "active_params": lambda model, _entry: count_parameters(model).active,
    "kv_gib": cache_gib,
    "weights_gb": lambda model, _entry: (
        weights_bytes(count_parameters(model), format_of(model, default_format(model))) / GB
    ),
    "state_mib_fp32": lambda model, _entry: KvCache(model=model).state_elements * 4 / MIB,
}
# The hub leaves out what is in 32 bits: the biases that correct a router's scores.
TOLERANCE = {"hub_params": 1e-6, "kv_gib": 0.001}
CASES = [(entry, quantity) for entry in ENTRIES for quantity in entry["expect"]]


@pytest.mark.parametrize(("entry", "quantity"), CASES, ids=[f"{entry['model']}-{what}" for entry, what in CASES])
def test_what_was_published_is_derived(entry: dict[str, Any], quantity: str) -> None:
    model = model_from_config(HfConfig(entry["config"], "entry"), entry["model"])

    derived = DERIVED[quantity](model, entry)

    assert derived == pytest.approx(entry["expect"][quantity], rel=TOLERANCE.get(quantity, 0.01))


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["model"] for entry in ENTRIES])
def test_every_published_number_names_its_source(entry: dict[str, Any]) -> None:
    kinds = set(entry["expect"])

    assert "hub_id" in entry or "hub_params" not in kinds
    assert "source" in entry or not kinds & {"params", "active_params", "weights_gb"}
    assert "kv" not in entry or entry["kv"]["source"].startswith("https://")
    assert entry["config_source"]


def test_the_page_on_sizing_says_how_many_were_published() -> None:
    page = Path(__file__).parents[2] / "docs" / "sizing.md"

    assert f"{len(ENTRIES)} models of newer families, {len(CASES)} numbers" in page.read_text(encoding="utf-8")
