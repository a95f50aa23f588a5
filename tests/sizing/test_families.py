"""Every known architecture against the models that Transformers builds from the same config."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.sizing.block_pool import block_pool
from llmload.sizing.families import families, model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.kv_cache import KvCache
from llmload.sizing.own_families import OWN_FAMILIES
from llmload.sizing.parameters import count_parameters

BUILT = json.loads((Path(__file__).parent / "data" / "transformers_counts.json").read_text())["models"]
OPT = {
    "model_type": "opt",
    "vocab_size": 1000,
    "hidden_size": 96,
    "ffn_dim": 208,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize("built", BUILT, ids=lambda built: str(built["config"]["model_type"]))
def test_counts_equal_those_of_the_model_that_transformers_builds(built: dict[str, Any]) -> None:
    model = model_from_config(HfConfig(built["config"], "here"), "m")

    assert count_parameters(model).total == built["total"]


def test_every_known_architecture_was_built() -> None:
    assert {built["config"]["model_type"] for built in BUILT} == {*families(), *OWN_FAMILIES}


def test_the_page_on_sizing_says_how_many_were_built() -> None:
    page = Path(__file__).parents[2] / "docs" / "sizing.md"

    assert f"{len(BUILT)} small configs" in page.read_text(encoding="utf-8")


def test_three_in_four_layers_of_qwen3_next_keep_a_state_instead_of_a_cache() -> None:
    config = next(built["config"] for built in BUILT if built["config"]["model_type"] == "qwen3_next")
    cache = KvCache(model=model_from_config(HfConfig(config, "here"), "m"))

    assert len(cache.model.decoder) == 8
    assert cache.bytes_per_token == 2 * (2 * 2 * 32) * 2
    assert cache.state_bytes == 6 * 2 * (3 * (2 * 3 * 8 + 6 * 12) + 6 * 12 * 8)


def test_a_linear_layer_in_a_family_that_has_none_is_refused() -> None:
    config = {**OPT, "layer_types": ["linear_attention"] * 3}

    with pytest.raises(ConfigError, match="layer_types holds 'linear_attention', which is not known for opt"):
        model_from_config(HfConfig(config, "here"), "m")


def test_layer_types_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="layer_types does not have one entry for each of the 3 layers"):
        model_from_config(HfConfig({**OPT, "layer_types": ["full_attention"]}, "here"), "m")


def test_an_opt_that_projects_its_embedding_is_refused() -> None:
    with pytest.raises(ConfigError, match="word_embed_proj_dim = 48 differs from hidden_size"):
        model_from_config(HfConfig({**OPT, "word_embed_proj_dim": 48}, "here"), "m")


def test_an_mpt_without_alibi_or_with_another_attention_is_refused() -> None:
    mpt = {"model_type": "mpt", "vocab_size": 1000, "d_model": 96, "n_layers": 3, "n_heads": 6, "max_seq_len": 128}

    with pytest.raises(ConfigError, match=r"attn_config\.alibi = false"):
        model_from_config(HfConfig({**mpt, "attn_config": {"alibi": False}}, "here"), "m")
    with pytest.raises(ConfigError, match=r"attn_config\.attn_type = 'multiquery_attention'"):
        model_from_config(HfConfig({**mpt, "attn_config": {"attn_type": "multiquery_attention"}}, "here"), "m")


def test_heads_that_do_not_divide_the_hidden_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="hidden_size = 96 is not a multiple of num_attention_heads = 7"):
        model_from_config(HfConfig({**OPT, "num_attention_heads": 7}, "here"), "m")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("tie_word_embeddings", "yes", "tie_word_embeddings = 'yes' is neither true nor false"),
        ("model_type", 3, "model_type = 3 is not a string"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(key: str, value: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        model_from_config(HfConfig({**OPT, key: value}, "here"), "m")


def test_a_rotary_fraction_is_read_from_either_key_and_must_be_one() -> None:
    phi = next(built["config"] for built in BUILT if built["config"]["model_type"] == "phi")
    bare = {key: value for key, value in phi.items() if key not in {"partial_rotary_factor", "rope_parameters"}}

    new = {**bare, "rope_parameters": {"partial_rotary_factor": 0.25}}
    assert model_from_config(HfConfig(new, "here"), "m").rotary_dim == 4
    assert model_from_config(HfConfig({**bare, "partial_rotary_factor": 1.0}, "here"), "m").rotary_dim == 16
    with pytest.raises(ConfigError, match="partial_rotary_factor = 2 is not a fraction"):
        model_from_config(HfConfig({**bare, "partial_rotary_factor": 2}, "here"), "m")


QWEN = dict(next(built["config"] for built in BUILT if built["config"]["model_type"] == "qwen2"))


@pytest.mark.parametrize(
    ("outer", "uncounted"),
    [
        ({"model_type": "internvl_chat", "llm_config": QWEN, "vision_config": {"depth": 1}}, ("vision_config",)),
        (
            {
                "model_type": "qwen3_omni_moe",
                "thinker_config": {"model_type": "thinker", "text_config": QWEN, "audio_config": {"depth": 1}},
                "talker_config": {"depth": 1},
            },
            ("talker_config", "audio_config"),
        ),
    ],
)
def test_a_language_model_is_found_where_multimodal_configs_have_it(
    outer: dict[str, Any], uncounted: tuple[str, ...]
) -> None:
    found = model_from_config(HfConfig(outer, "here"), "m")

    assert found.decoder == model_from_config(HfConfig(QWEN, "here"), "m").decoder
    assert found.uncounted == uncounted


@pytest.mark.parametrize(
    "vision",
    [
        {"model_type": "qwen3_vl"},
        {"model_type": "intern_vit_6b"},
        {"model_type": "unheard_of", "depth": 2},
        {"model_type": "siglip_vision_model"},
    ],
)
def test_a_tower_that_leaves_something_out_or_is_not_known_is_named_and_not_counted(vision: dict[str, Any]) -> None:
    outer = {"model_type": "internvl_chat", "llm_config": QWEN, "vision_config": vision}
    found = model_from_config(HfConfig(outer, "here"), "m")

    assert (found.image_tower, found.uncounted) == (0, ("vision_config",))


@pytest.mark.parametrize(
    "name",
    ["deepseek_v41", "zamba", "rwkv7"],
)
def test_an_architecture_that_could_not_be_compared_with_a_model_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model_type = '{name}' is not an architecture llmload can size"):
        model_from_config(HfConfig({**QWEN, "model_type": name}, "here"), "m")


def test_layers_that_read_an_earlier_layers_cache_keep_none() -> None:
    gemma = next(built["config"] for built in BUILT if built["config"]["model_type"] == "gemma4_text")
    shared = model_from_config(HfConfig(gemma, "here"), "m")
    alone = model_from_config(HfConfig({**gemma, "num_kv_shared_layers": 0}, "here"), "m")

    assert KvCache(model=shared).bytes_per_token < KvCache(model=alone).bytes_per_token
    assert len(block_pool(KvCache(model=shared)).groups) <= len(block_pool(KvCache(model=alone)).groups)


def test_an_indexer_keeps_132_bytes_a_token_and_narrow_latents_656() -> None:
    sizes = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128}
    config = next(built["config"] for built in BUILT if built["config"]["model_type"] == "deepseek_v32")
    model = model_from_config(HfConfig({**config, **sizes}, "here"), "m")

    assert KvCache(model=model).bytes_per_token == 6 * (2 * 576 + 132)
    assert KvCache(model=model, element_bytes=1).bytes_per_token == 6 * (656 + 132)
