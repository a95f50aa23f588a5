"""Speed bounds by hand, and the reference document's speed table beside them."""

from pathlib import Path

import pytest

from llmload.errors import ConfigError
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import load_model
from llmload.sizing.parameters import count_parameters
from llmload.sizing.speed import (
    decode_bound_tokens_per_s,
    decode_step_bytes,
    implausible,
    mbu,
    prefill_bound_tokens_per_s,
    reference_speed_rows,
)
from llmload.sizing.text import reference_speed_markdown

A100 = find_gpu("A100-SXM4-80GB")
SIZING = Path(__file__).parents[2] / "docs" / "sizing.md"


def test_one_sequence_reads_all_weights_but_the_input_embedding_for_each_token() -> None:
    model = load_model("vicuna-7b-v1.3")
    read = 2 * (6_738_415_616 - 32000 * 4096 + 4096)

    assert decode_step_bytes(model) == read
    assert decode_bound_tokens_per_s(model, A100) == 2039e9 / read
    assert decode_bound_tokens_per_s(model, A100, gpus=2) == 2 * 2039e9 / read


def test_a_cache_is_read_with_the_weights_by_each_sequence() -> None:
    model = load_model("Llama-3.1-8B-Instruct")
    plain = decode_step_bytes(model, batch=4)

    assert decode_step_bytes(model, batch=4, context_tokens=1000) == plain + 4 * 1000 * 131072
    assert decode_step_bytes(model, batch=4, context_tokens=1000, kv_dtype="fp8") == plain + 4 * 1000 * 65536


def test_a_batch_reads_the_experts_that_some_token_chose() -> None:
    model = load_model("Mixtral-8x7B-Instruct-v0.1")  # 2 of 8
    experts = 2 * count_parameters(model).experts
    one, two = decode_step_bytes(model), decode_step_bytes(model, batch=2)

    assert one == 2 * (count_parameters(model).read_per_token + 4096)
    assert two - one == pytest.approx(experts * (0.75 - 0.75**2), rel=1e-6)


def test_arithmetic_bounds_large_batches_and_prompts() -> None:
    model = load_model("Llama-3.1-8B-Instruct")
    prefill = prefill_bound_tokens_per_s(model, A100)

    assert prefill == 312e12 / (2 * (8_030_261_248 - 128256 * 4096))
    assert decode_bound_tokens_per_s(model, A100, batch=4096) == prefill
    assert prefill_bound_tokens_per_s(model, find_gpu("DGX-Spark")) is None


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision 'int3' is not known"):
        decode_step_bytes(load_model("Qwen3-8B"), weight_format="int3")


def test_more_than_the_bound_is_impossible_and_far_below_all_peers_is_doubtful() -> None:
    assert mbu(77.0, 154.0) == 0.5
    assert implausible(1.01) == "101% of the bandwidth bound: faster than the weights can be read"
    assert implausible(0.01) is None
    assert implausible(0.01, peers=[0.5, 0.5, 0.5]) is None
    assert implausible(0.267, peers=[0.55, 0.56, 0.61, 0.69, 0.57]) is not None
    assert implausible(0.17, peers=[0.19, 0.38, 0.47, 0.32]) is None  # these scatter as widely


def test_one_cell_of_the_reference_speed_table_is_implausible() -> None:
    rows = reference_speed_rows()
    flagged = {
        (row.model, engine): cell for row in rows for engine, cell in row.cells.items() if cell and cell.implausible
    }

    assert list(flagged) == [("vicuna-7b-v1.3", "vLLM 0.1.3")]
    assert round(flagged["vicuna-7b-v1.3", "vLLM 0.1.3"].mbu, 3) == 0.267
    assert sum(cell is not None for row in rows for cell in row.cells.values()) == 17


def test_the_page_on_sizing_has_the_table_as_it_is_computed() -> None:
    assert reference_speed_markdown(reference_speed_rows()) in SIZING.read_text(encoding="utf-8")
