"""Models of newer families against what was published of them: parameters, caches, states."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmload.sizing.architecture import ModelSpec, count_parameters
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.weights import KvCache

ENTRIES = json.loads((Path(__file__).parent / "data" / "published_families.json").read_text())["entries"]
MIB = 2**20
DERIVED: Mapping[str, Callable[[ModelSpec], float]] = {
    "params": lambda model: count_parameters(model).total,
    "active_params": lambda model: count_parameters(model).active,
    "kv_mib_32768": lambda model: KvCache(model=model).bytes_per_token * 32768 / MIB,
    "state_mib_fp32": lambda model: KvCache(model=model).state_elements * 4 / MIB,
    "kv_bytes_per_token_fp8": lambda model: KvCache(model=model, element_bytes=1).bytes_per_token,
}
CASES = [(entry, quantity) for entry in ENTRIES for quantity in entry["expect"]]


@pytest.mark.parametrize(("entry", "quantity"), CASES, ids=[f"{entry['model']}-{what}" for entry, what in CASES])
def test_what_was_published_is_derived_within_one_percent(entry: dict[str, Any], quantity: str) -> None:
    model = model_from_config(HfConfig(entry["config"], "entry"), entry["model"])
    published = entry["expect"][quantity]

    derived = DERIVED[quantity](model)

    exact = quantity == "params" and published % 10**6  # a count, not a figure rounded for people
    assert derived == (published if exact else pytest.approx(published, rel=0.01))


def test_the_page_on_sizing_says_how_many_were_published() -> None:
    page = Path(__file__).parents[2] / "docs" / "sizing.md"

    assert f"{len(ENTRIES)} models of newer families, {len(CASES)} numbers" in page.read_text(encoding="utf-8")
