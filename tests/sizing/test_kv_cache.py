"""KV bytes by hand and by what others published."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmload.sizing.architecture import Dense, Layer
from llmload.sizing.catalogue import load_model
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.kv_cache import KvCache
from tests.sizing.recurrent_layers import delta_rule

COUNTS = json.loads((Path(__file__).parent / "data" / "model_counts.json").read_text())
WITH_KV = sorted(name for name, counts in COUNTS.items() if counts["kv_bytes_per_token_bf16"])
GIB = 2**30


@pytest.mark.parametrize("name", WITH_KV)
def test_bytes_per_token_equal_the_known_ones(name: str) -> None:
    assert KvCache(model=load_model(name)).bytes_per_token == COUNTS[name]["kv_bytes_per_token_bf16"]


def test_the_published_table_for_llama_3_1_8b_is_met() -> None:
    """Hugging Face's Llama 3.1 post: 0.125 GiB for 1k tokens, 1.95 for 16k, 15.62 for 128k (k = 1000 above 1k)."""
    cache = KvCache(model=load_model("Llama-3.1-8B-Instruct"))

    assert cache.sequence_bytes(1024) / GIB == 0.125
    assert cache.sequence_bytes(16_000) / GIB == pytest.approx(1.95, abs=0.005)
    assert cache.sequence_bytes(128_000) / GIB == pytest.approx(15.62, abs=0.01)


def test_llama_cpp_logs_256_mib_for_2048_tokens_of_llama_3_8b_and_mixtral() -> None:
    for name in ("Llama-3-8B-Instruct", "Mixtral-8x7B-Instruct-v0.1"):
        assert KvCache(model=load_model(name)).sequence_bytes(2048) == 256 * 2**20


def test_gpt2_xl_has_300_kib_a_token() -> None:
    config = {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": 1600,
        "n_layer": 48,
        "n_head": 25,
        "n_positions": 1024,
    }

    assert KvCache(model=model_from_config(HfConfig(config, "here"), "gpt2-xl")).bytes_per_token == 300 * 1024


def test_a_falcon_with_one_key_head_has_it_on_every_gpu() -> None:
    model = load_model("falcon-7b-instruct")

    assert KvCache(model=model).bytes_per_token == 2 * 32 * 1 * 64 * 2
    assert KvCache(model=model, tensor_parallel=2).bytes_per_token == 2 * 32 * 1 * 64 * 2


def test_key_heads_are_divided_until_each_gpu_has_one() -> None:
    model = load_model("Llama-3.1-8B-Instruct")  # 8 key heads

    per_gpu = [KvCache(model=model, tensor_parallel=n).bytes_per_token for n in (1, 2, 8, 16)]
    assert per_gpu == [131072, 65536, 16384, 16384]


def test_latent_attention_is_the_same_on_every_gpu() -> None:
    model = load_model("DeepSeek-V3")

    assert KvCache(model=model).bytes_per_token == 61 * (512 + 64) * 2
    assert KvCache(model=model, tensor_parallel=8).bytes_per_token == 61 * (512 + 64) * 2


def test_an_8_bit_cache_is_half_as_wide() -> None:
    model = load_model("Qwen2.5-7B-Instruct")

    assert KvCache(model=model, element_bytes=1).bytes_per_token * 2 == KvCache(model=model).bytes_per_token


def test_windows_stop_growing_when_full() -> None:
    cache = KvCache(model=load_model("gemma-3-12b-it"))  # 8 full layers, 40 of 1024 tokens, 8192 bytes a token each

    assert cache.bytes_per_token == 48 * 8192
    assert cache.bytes_per_token_beyond_windows == 8 * 8192
    assert cache.sequence_bytes(1024) == 48 * 8192 * 1024
    assert cache.sequence_bytes(8192) == 8192 * (8 * 8192 + 40 * 1024)


def test_a_decoder_keeps_the_encoders_input_too() -> None:
    cache = KvCache(model=load_model("t5-v1_1-xxl"))
    per_token = 24 * 2 * 64 * 64 * 2

    assert cache.bytes_per_token == per_token
    assert cache.bytes_per_input_token == per_token
    assert cache.sequence_bytes(100, input_tokens=500) == 600 * per_token


def test_a_recurrent_layer_keeps_a_state_that_does_not_grow() -> None:
    model = load_model("Llama-3.2-1B-Instruct")
    recurrent = Layer(
        mixer=delta_rule(key_heads=2, value_heads=4, key_dim=8, value_dim=16),
        feed_forward=Dense(intermediate_size=8),
    )
    cache = KvCache(model=replace(model, decoder=(*model.decoder, recurrent)))

    state = 2 * (3 * (2 * 16 + 64) + 64 * 8)
    assert cache.bytes_per_token == 32768
    assert cache.state_bytes == state
    assert cache.sequence_bytes(10) == 10 * 32768 + state
