"""`llmload vram pool`: block arithmetic by hand."""

import json

import pytest
from click.testing import CliRunner

from llmload.cli.vram import vram
from llmload.errors import ConfigError
from llmload.sizing.catalogue import load_model
from llmload.sizing.pool import PoolRequest, pool_sheet, pool_text


def test_blocks_tokens_and_requests_are_those_of_a_calculation_by_hand() -> None:
    sheet = pool_sheet(PoolRequest(model=load_model("Qwen3-8B"), pool_gib=12.3))

    assert sheet.layout.block_bytes == 16 * 36 * 2 * 8 * 128 * 2  # tokens, layers, K and V, heads, width, bytes
    assert sheet.blocks == int(12.3 * 2**30) // 2_359_296 == 5597
    assert sheet.tokens == 5597 * 16
    assert (sheet.blocks_per_request, sheet.requests_at_once) == (40_960 // 16, 5597 // 2560)
    assert sheet.longest_request_tokens == 40_960


def test_heads_are_divided_among_gpus_and_an_fp8_cache_is_half_as_wide() -> None:
    model = load_model("Llama-3.1-70B-Instruct")
    one, two = (pool_sheet(PoolRequest(model=model, pool_gib=10, tensor=n, context_tokens=16_000)) for n in (1, 2))
    narrow = pool_sheet(PoolRequest(model=model, pool_gib=10, kv_dtype="fp8", context_tokens=16_000))

    assert two.layout.block_bytes == narrow.layout.block_bytes == one.layout.block_bytes // 2
    assert one.requests_at_once == 10 * 2**30 // one.layout.block_bytes // 1000


def test_a_pool_too_small_for_the_context_holds_no_request_and_says_how_long_one_may_be() -> None:
    sheet = pool_sheet(PoolRequest(model=load_model("Qwen3-8B"), pool_gib=1))

    assert (sheet.requests_at_once, sheet.longest_request_tokens) == (0, 455 * 16)
    assert "7,280 tokens  that the pool holds" in pool_text(sheet)


def test_windows_share_the_pools_blocks_with_whole_contexts() -> None:
    sheet = pool_sheet(PoolRequest(model=load_model("gpt-oss-20b"), pool_gib=12.3))

    assert [group.window_tokens for group in sheet.layout.groups] == [128, None]
    assert sheet.tokens == int(sheet.max_concurrency * 131072)
    assert sheet.blocks_per_request == 131072 // 16 + (128 - 1 + 2 * 8192) // 16 + 2
    assert "shared by 2 groups of layers" in pool_text(sheet)


def test_json_has_these_keys_and_whole_requests() -> None:
    values = json.loads(CliRunner().invoke(vram, ["pool", "--gib", "12.3", "--json", "Qwen3-8B"]).stdout)

    assert list(values) == [
        "model", "pool_gib", "tensor_parallel", "kv_dtype", "block_bytes", "block_tokens", "groups", "blocks", "tokens",
        "context_tokens", "max_num_batched_tokens", "blocks_per_request", "requests_at_once", "max_concurrency",
        "longest_request_tokens",
    ]  # fmt: skip
    assert (values["requests_at_once"], values["max_concurrency"]) == (2, 2.19)


def test_a_split_that_engines_refuse_and_a_context_that_is_unknown_are_refused() -> None:
    with pytest.raises(ConfigError, match="32 attention heads are not divisible by 3"):
        pool_sheet(PoolRequest(model=load_model("Qwen3-8B"), pool_gib=10, tensor=3))
    with pytest.raises(ConfigError, match="give --context"):
        pool_sheet(PoolRequest(model=load_model("t5-v1_1-xxl"), pool_gib=10))
