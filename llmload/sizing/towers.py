"""Towers for images beside a language model, counted from their config with the projector that joins the two."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from llmload.errors import ConfigError
from llmload.sizing.hf_config import HfConfig

# Each returns the parameters of a tower and its projector, from its config, the whole config and the language model's
# hidden size. Source: the modeling files of each family in Transformers 5.23; equal to the hub's counts.
Count = Callable[[HfConfig, HfConfig, int], int]


def image_tower_parameters(config: HfConfig, text_hidden: int) -> int | None:
    """Return the parameters of a config's tower for images and its projector; None where its kind is not known."""
    inner = config.values.get("vision_config")
    if not isinstance(inner, Mapping):
        return None
    outer = str(config.values.get("model_type"))
    count = _KINDS.get((outer, str(inner.get("model_type") or outer)))
    if count is None:
        return None
    with suppress(ConfigError):  # it leaves something out: not counted
        return count(HfConfig(_without_nulls(inner), f"{config.source}, vision_config"), config, text_hidden)
    return None


def image_states(config: HfConfig) -> int:
    """Return the hidden states that a token of an image has: Qwen3-VL's towers give the first layers their own."""
    inner = config.values.get("vision_config")
    deep = inner.get("deepstack_visual_indexes") if isinstance(inner, Mapping) else None
    return 1 + len(deep) if isinstance(deep, list) else 1


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _blocks(layers: int, width: int, inner: int, *, gated: bool, biased: bool, norms: int) -> int:
    """Transformer blocks: four square projections, a feed-forward block, and norms of `norms` times the width."""
    attention = 4 * width * width + 4 * width * biased
    feed_forward = (2 + gated) * width * inner + (inner * (1 + gated) + width) * biased
    return layers * (attention + feed_forward + norms * width)


def _mlp(inputs: int, outputs: int, *, biased: bool = True) -> int:
    """A projector of two layers."""
    return inputs * outputs + outputs * outputs + 2 * outputs * biased


def _patches(tower: HfConfig) -> int:
    return (tower.count("image_size") // tower.count("patch_size")) ** 2


def _patch_inputs(tower: HfConfig) -> int:
    return tower.count("num_channels", 3) * tower.count("patch_size") ** 2


def _siglip(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    """Gemma 3's, whose projector is one matrix and a norm."""
    width, inner = tower.count("hidden_size"), tower.count("intermediate_size")
    tables = (_patch_inputs(tower) + 1 + _patches(tower)) * width
    blocks = _blocks(tower.count("num_hidden_layers"), width, inner, gated=False, biased=True, norms=4)
    return tables + blocks + 2 * width + (text_hidden + 1) * width


def _clip(tower: HfConfig, config: HfConfig, text_hidden: int) -> int:
    width = tower.count("hidden_size")
    tables = (_patch_inputs(tower) + _patches(tower) + 2) * width
    layers, inner = tower.count("num_hidden_layers"), tower.count("intermediate_size")
    blocks = _blocks(layers, width, inner, gated=False, biased=True, norms=4)
    newline = text_hidden if config.model_type == "llava_next" else 0
    return tables + blocks + 4 * width + _mlp(width, text_hidden) + newline


def _minimax_m3(tower: HfConfig, config: HfConfig, text_hidden: int) -> int:
    width, layers = tower.count("hidden_size"), tower.count("num_hidden_layers")
    blocks = _blocks(layers, width, tower.count("intermediate_size"), gated=False, biased=True, norms=4)
    nested = tower.values.get("img_token_compression_config")
    merging = HfConfig(nested, tower.source) if isinstance(nested, Mapping) else tower
    steps, side = merging.count("temporal_patch_size", 2), merging.count("spatial_merge_size", 2)
    joined = config.count("projector_hidden_size", text_hidden)
    projectors = sum((inputs + 1) * joined + (joined + 1) * text_hidden for inputs in (width, side**2 * text_hidden))
    return steps * _patch_inputs(tower) * width + blocks + 2 * width + projectors


def _pixtral(tower: HfConfig, config: HfConfig, text_hidden: int) -> int:
    width, layers = tower.count("hidden_size"), tower.count("num_hidden_layers")
    blocks = _blocks(layers, width, tower.count("intermediate_size"), gated=True, biased=False, norms=2)
    merges = config.model_type == "mistral3"
    merged = config.count("spatial_merge_size", 2) ** 2 * width * width + width if merges else 0
    biased = config.flag("multimodal_projector_bias", default=not merges)
    return (_patch_inputs(tower) + 1) * width + blocks + merged + _mlp(width, text_hidden, biased=biased)


def _intern(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    def first(key: str) -> int:
        value = tower.values.get(key)  # Transformers lists height and width
        return HfConfig({key: value[0] if isinstance(value, list) and value else value}, tower.source).count(key)

    width, layers, patch = tower.count("hidden_size"), tower.count("num_hidden_layers"), first("patch_size")
    places = (first("image_size") // patch) ** 2 + 1
    tables = (3 * patch**2 + 1 + places + 1) * width
    layer_norm = tower.text("norm_type", "layer_norm") == "layer_norm"
    norms = 2 * (1 + layer_norm) + 2  # and two learned scales
    blocks = _blocks(layers, width, tower.count("intermediate_size"), gated=False, biased=True, norms=norms)
    biased = tower.flag("qkv_bias", default=tower.flag("attention_bias", default=False))
    normed = tower.flag("qk_normalization", default=tower.flag("use_qk_norm", default=False))
    own = layers * width * (2 * normed - 3 * (not biased))
    shuffled = 4 * width
    return tables + blocks + own + 2 * shuffled + _mlp(shuffled, text_hidden)


def _qwen2(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    width, layers = tower.count("embed_dim"), tower.count("depth")
    ratio = tower.values.get("mlp_ratio", 4)
    if not isinstance(ratio, int):
        raise tower.refusal(f"mlp_ratio = {ratio!r} is not a whole number")
    blocks = _blocks(layers, width, ratio * width, gated=False, biased=True, norms=4)
    return _qwen_patches(tower) * width + blocks + 2 * width + _qwen_merger(tower, width, text_hidden)


def _qwen2_5(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    width, layers = tower.count("hidden_size"), tower.count("depth")
    blocks = _blocks(layers, width, tower.count("intermediate_size"), gated=True, biased=True, norms=2)
    return _qwen_patches(tower) * width + blocks + width + _qwen_merger(tower, width, text_hidden)


def _qwen3(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    width, layers = tower.count("hidden_size"), tower.count("depth")
    blocks = _blocks(layers, width, tower.count("intermediate_size"), gated=False, biased=True, norms=4)
    tables = (_qwen_patches(tower) + 1 + tower.count("num_position_embeddings")) * width
    merger = _qwen_merger(tower, width, text_hidden)
    deep = tower.values.get("deepstack_visual_indexes") or ()
    merged = tower.count("spatial_merge_size", 2) ** 2 * width
    return tables + blocks + 2 * width + merger + len(deep) * (2 * merged + merger)


def _qwen_patches(tower: HfConfig) -> int:
    channels = tower.count("in_channels", tower.count("in_chans", 3))
    return channels * tower.count("temporal_patch_size", 2) * tower.count("patch_size") ** 2


def _qwen_merger(tower: HfConfig, width: int, text_hidden: int) -> int:
    merged = tower.count("spatial_merge_size", 2) ** 2 * width
    return merged * merged + merged + merged * text_hidden + text_hidden


def _gemma4(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    width, layers, dim = tower.count("hidden_size"), tower.count("num_hidden_layers"), tower.count("head_dim")
    heads, kv_heads = tower.count("num_attention_heads"), tower.count("num_key_value_heads")
    attention = 2 * width * (heads + kv_heads) * dim + 2 * dim
    layer = attention + 3 * width * tower.count("intermediate_size") + 4 * width
    tables = (3 * tower.count("patch_size") ** 2 + 2 * tower.count("position_embedding_size")) * width
    scaled = 2 * width * tower.flag("standardize", default=False)
    return tables + layers * layer + scaled + width * text_hidden


def _llama4(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    width, inner = tower.count("hidden_size"), tower.count("intermediate_size")
    blocks = _blocks(tower.count("num_hidden_layers"), width, inner, gated=False, biased=True, norms=4)
    tables = (_patch_inputs(tower) + _patches(tower) + 2) * width
    joined = tower.count("projector_input_dim", 4096)
    projector = inner * joined + joined * joined + tower.count("vision_output_dim", 4096) * text_hidden
    return tables + blocks + 4 * width + projector


_MLLAMA_SHAPES = 8  # of up to four tiles


def _mllama(tower: HfConfig, _config: HfConfig, text_hidden: int) -> int:
    """Llama 3.2 Vision's: tables for each shape that tiles may have, gates, and layers that see all tiles."""
    width, inner, tiles = tower.count("hidden_size"), tower.count("intermediate_size"), tower.count("max_num_tiles", 4)
    ratios = tower.values.get("supported_aspect_ratios")
    shapes = (len(ratios) if isinstance(ratios, list) else _MLLAMA_SHAPES) + 1
    places = _patches(tower) + 1
    tables = _patch_inputs(tower) + 1 + places + shapes * tiles * (places + 2)
    local, wide = tower.count("num_hidden_layers", 32), tower.count("num_global_layers", 8)
    layer = 4 * width * width + 2 * width * inner + inner + width + 4 * width
    joined = tower.count("vision_output_dim", 7680)
    return tables * width + 3 + 4 * width + (local + wide) * layer + 2 * wide + (joined + 1) * text_hidden


# By the model_type of the whole config and of its tower, which may be left out where both are the same.
_KINDS: Mapping[tuple[str, str], Count] = {
    ("gemma3", "siglip_vision_model"): _siglip,
    ("gemma3_text", "siglip_vision_model"): _siglip,
    ("llava", "clip_vision_model"): _clip,
    ("llava_next", "clip_vision_model"): _clip,
    ("llava", "pixtral"): _pixtral,
    ("mistral3", "pixtral"): _pixtral,
    ("internvl_chat", "intern_vit_6b"): _intern,
    ("internvl", "internvl_vision"): _intern,
    ("qwen2_vl", "qwen2_vl"): _qwen2,
    ("qwen2_5_vl", "qwen2_5_vl"): _qwen2_5,
    ("qwen3_vl", "qwen3_vl"): _qwen3,
    ("qwen3_vl_moe", "qwen3_vl_moe"): _qwen3,
    ("qwen3_5", "qwen3_5"): _qwen3,
    ("qwen3_5_moe", "qwen3_5_moe"): _qwen3,
    ("gemma4", "gemma4_vision"): _gemma4,
    ("llama4", "llama4_vision_model"): _llama4,
    ("mllama", "mllama_vision_model"): _mllama,
    ("minimax_m3_vl", "clip_vision_model"): _minimax_m3,
    ("minimax_m3_vl", "minimax_m3_vl_vision"): _minimax_m3,
    ("minimax_m3_vl", "minimax_m3_vl"): _minimax_m3,
}
