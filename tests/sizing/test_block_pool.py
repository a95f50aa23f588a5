"""vLLM's blocks, tokens and concurrency against what vLLM 0.19 logged in 16 runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.sizing.architecture import Attention, Dense, LatentAttention, Layer, ModelSpec
from llmload.sizing.block_pool import BlockPool, block_pool
from llmload.sizing.catalogue import load_model
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache
from llmload.units import GIB
from tests.sizing.recurrent_layers import delta_rule

GROUPS = json.loads((Path(__file__).parent / "data" / "vllm_groups.json").read_text())["cases"]
RUNS = json.loads((Path(__file__).parent / "data" / "vllm_pools.json").read_text())["runs"]


def pool_of(run: dict[str, Any]) -> BlockPool:
    width = KV_ELEMENT_BYTES[run["kv_dtype"]]
    return block_pool(
        KvCache(model=load_model(run["model"]), element_bytes=width, tensor_parallel=run["tensor_parallel"])
    )


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['run_of']}-tp{run['tensor_parallel']}-{run['kv_dtype']}")
def test_logged_blocks_give_the_logged_tokens_and_concurrency(run: dict[str, Any]) -> None:
    pool = pool_of(run)
    concurrency = pool.max_concurrency(run["num_blocks"], run["max_model_len_tokens"], run["max_num_batched_tokens"])

    assert pool.tokens(run["num_blocks"]) == run["tokens"]
    assert round(concurrency, 2) == run["concurrency"]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['run_of']}-tp{run['tensor_parallel']}-{run['kv_dtype']}")
def test_the_logged_pool_gives_the_logged_blocks_within_the_logs_rounding(run: dict[str, Any]) -> None:
    pool = pool_of(run)
    fewest = pool.blocks(int((run["pool_gib"] - 0.005) * 2**30))
    most = pool.blocks(int((run["pool_gib"] + 0.005) * 2**30))

    assert fewest <= run["num_blocks"] <= most + 1


def test_five_windowed_layers_to_each_full_one_make_six_groups() -> None:
    pool = block_pool(KvCache(model=load_model("gemma-3-12b-it")))

    assert [group.layers for group in pool.groups] == [8] * 6
    assert sorted(group.window_tokens or 0 for group in pool.groups) == [0] + [1024] * 5
    assert pool.block_bytes == 16 * 8 * 8192


def test_a_group_that_is_not_full_is_padded() -> None:
    pool = block_pool(KvCache(model=load_model("gemma-3-4b-it")))  # 29 windowed layers, 5 full ones

    assert sorted(group.layers for group in pool.groups) == [4, 5, 5, 5, 5, 5, 5]
    assert pool.block_bytes == 16 * 5 * 4096


def test_a_recurrent_state_takes_one_block_and_widens_all_blocks_to_hold_it() -> None:
    model = load_model("Llama-3.2-1B-Instruct")  # 16 layers of 2048 bytes a token
    recurrent = Layer(
        mixer=delta_rule(key_heads=16, value_heads=32, key_dim=128, value_dim=128),
        feed_forward=Dense(intermediate_size=8),
    )
    pool = block_pool(KvCache(model=replace(model, decoder=model.decoder + (recurrent,) * 48)))

    state_bytes = 2 * (3 * (2 * 2048 + 4096) + 4096 * 128)  # 1097728 bytes are 536 tokens, 544 in steps of 16
    assert state_bytes / 2048 == 536
    assert pool.block_tokens == 544
    assert [group.recurrent for group in pool.groups].count(True) == 3
    assert pool.blocks_per_request(5440, 8192) == 10 + 3


def test_an_encoder_decoder_has_no_block_pool() -> None:
    with pytest.raises(ConfigError, match="encoder-decoder models whose inputs differ"):
        block_pool(KvCache(model=load_model("t5-v1_1-xxl")))


@pytest.mark.parametrize("case", GROUPS, ids=lambda case: f"{len(case['layers'])}-layers-{case['groups']}-groups")
def test_layers_of_different_width_are_grouped_as_vllm_0_32_groups_them(case: dict[str, Any]) -> None:
    feed_forward = Dense(intermediate_size=8)
    layers = tuple(
        Layer(
            mixer=Attention(heads=16, kv_heads=heads, head_dim=width, window_tokens=window or None),
            feed_forward=feed_forward,
        )
        for heads, width, window in case["layers"]
    )
    pool = block_pool(KvCache(model=replace(load_model("Llama-3.2-1B-Instruct"), decoder=layers)))

    assert len(pool.groups) == case["groups"]
    assert pool.block_bytes == case["block_bytes"]
    assert pool.blocks_per_request(8192, 2048) == case["blocks_per_request"]


def test_latents_that_do_not_divide_the_widest_layer_are_refused() -> None:
    model = load_model("Llama-3.2-1B-Instruct")
    latent = LatentAttention(
        heads=16, q_lora_rank=None, kv_lora_rank=100, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8
    )
    window = Attention(heads=16, kv_heads=8, head_dim=64, window_tokens=64)
    layers = tuple(Layer(mixer=mixer, feed_forward=Dense(intermediate_size=8)) for mixer in (latent, window))

    with pytest.raises(ConfigError, match="do not divide"):
        block_pool(KvCache(model=replace(model, decoder=layers)))


PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_families.json").read_text())["entries"]


def published(name: str) -> ModelSpec:
    config = next(entry["config"] for entry in PUBLISHED if entry["model"] == name)
    return model_from_config(HfConfig(config, "entry"), name)


def test_deepseek_v4s_blocks_are_those_that_vllm_was_seen_to_make() -> None:
    cache = KvCache(model=published("DeepSeek-V4-Flash"), element_bytes=1)
    pool = block_pool(cache)

    # vLLM issue 54703: five groups of layers and their tokens a block, the largest of which takes 1,002,240 bytes.
    assert [(group.layers, group.block_tokens) for group in pool.groups] == [
        (62, 256),
        (22, 64),
        (21, 64),
        (42, 4),
        (20, 8),
    ]
    assert pool.block_bytes == 1_002_240
    # vLLM issue 51163: 1,179,770 tokens in 20,377 blocks, requests of 500,000 tokens, two steps of 8,192 in flight.
    assert int(pool.max_concurrency(20377, 500_000, 2 * 8192) * 500_000) == 1_179_770
    # vLLM issue 44376 (0.22): 6.66 GiB for 30,000 tokens in steps of 16,384, and 5.44 GiB for 13,528.
    older = block_pool(cache, packed=False)
    needed = [older.blocks_per_request(tokens, 16384) * older.block_bytes / GIB for tokens in (30_000, 13_528)]
    assert [round(gib, 2) for gib in needed] == [6.66, 5.44]


def test_deepseek_v4_in_16_bits_has_wider_pages() -> None:
    pool = block_pool(KvCache(model=published("DeepSeek-V4-Pro"), element_bytes=2))

    keys = 8_704  # 64 of the indexer's, of 132 bytes, rounded up to steps of 512
    assert pool.block_bytes == 30 * (64 * 512 * 2 + keys) + 31 * 2 * 512 * 2


def test_a_deepseek_v4_without_indexers_has_no_groups_to_pack() -> None:
    config = next(entry["config"] for entry in PUBLISHED if entry["model"] == "DeepSeek-V4-Flash")
    model = model_from_config(HfConfig({**config, "compress_ratios": [0] * 20 + [128] * 23}, "here"), "m")

    groups = block_pool(KvCache(model=model, element_bytes=1)).groups
    assert [(group.layers, group.window_tokens) for group in groups] == [(23, None), (43, 128), (23, 128)]


def test_blocks_of_latents_beside_states_have_the_tokens_that_vllm_logged() -> None:
    # vLLM issue 28228 (0.11, TP 2, 2.30 GiB): 75,840 tokens, 2.48 requests of 120,000.
    older = block_pool(KvCache(model=published("Kimi-Linear-48B-A3B-Instruct"), tensor_parallel=2), packed=False)
    assert older.block_tokens == 960
    assert older.tokens(older.blocks(int(2.30 * GIB))) == 75_840
    assert older.max_concurrency(318, 120_000, 64_000) == pytest.approx(2.48, abs=0.005)
    # LMCache pull request 4278 (Kimi K3, TP 8): its chunks of 3,072 tokens are whole blocks.
    newer = block_pool(KvCache(model=published("Kimi-K3"), tensor_parallel=8))
    assert newer.block_tokens == 768


def test_whispers_requests_keep_the_keys_of_their_whole_input() -> None:
    pool = block_pool(KvCache(model=published("whisper-large-v3")))

    assert pool.block_bytes == 16 * 32 * 2 * 1280 * 2
    assert pool.blocks_per_request(448, 8192) == 448 // 16 + -(-1500 // 16)


def test_a_model_without_attention_has_no_block_pool() -> None:
    state = delta_rule(key_heads=2, value_heads=2, key_dim=8, value_dim=8)
    layer = Layer(mixer=state, feed_forward=Dense(intermediate_size=8))

    with pytest.raises(ConfigError, match="no layer keeps keys and values"):
        block_pool(KvCache(model=replace(load_model("Llama-3.2-1B-Instruct"), decoder=(layer,))))
