"""From a Hugging Face config to a ModelSpec, by architecture; an unknown architecture is refused, never guessed."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from llmload.errors import shown
from llmload.sizing.architecture import CompressedAttention, LatentAttention, ModelSpec, Recurrent
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.layer_kinds import layer_kinds
from llmload.sizing.layer_parts import Traits, identity, layer
from llmload.sizing.own_families import OWN_FAMILIES
from llmload.sizing.quantisation import with_quantisation
from llmload.sizing.special_families import SPECIAL
from llmload.sizing.towers import image_states, image_tower_parameters

# Model types whose language model is another family's, layer for layer.
TWINS: Mapping[str, str] = {
    "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "qwen3_omni_moe_text": "qwen3_moe",
    "kimi_k2": "deepseek_v3", "qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text",
    "gemma4": "gemma4_text", "llama4": "llama4_text", "mimo": "qwen2",
    "phi4mm": "phi3", "phi4_multimodal": "phi3", "mllama": "mllama_text_model",
    "minimax_m3_vl": "minimax_m3", "minimax_m3_vl_text": "minimax_m3",
}  # fmt: skip

# Where multimodal configs have their language model, and what they state beside it and mean for it.
_LANGUAGE_KEYS = ("thinker_config", "text_config", "llm_config")
_OUTER_KEYS = ("model_type", "tie_word_embeddings", "quantization_config", "dtype", "torch_dtype")
_BESIDE_KEYS = (
    "vision_config",
    "audio_config",
    "sound_config",
    "talker_config",
    "code2wav_config",
    "embd_layer",
    "vision_lora",
    "speech_lora",
)


@cache
def families() -> Mapping[str, Traits]:
    """Return the traits of every decoder-only family, as families.toml has them."""
    text = files("llmload.sizing").joinpath("data", "families.toml").read_text(encoding="utf-8")
    own: Mapping[str, Mapping[str, Any]] = tomllib.loads(text)

    def traits(name: str) -> dict[str, Any]:
        like = own[name].get("like")
        return {**(traits(like) if like else {}), **{key: own[name][key] for key in own[name] if key != "like"}}

    return {name: Traits(**traits(name)) for name in own}


def model_from_config(config: HfConfig, name: str) -> ModelSpec:
    """
    Return the model that a config describes: of a multimodal one the language model, its tower for images where that
    can be counted, and the names of what is left out.

    Raises ConfigError, naming file, key and value, for an architecture that is not known.
    """
    whole = config
    beside = [key for key in _BESIDE_KEYS if config.values.get(key)]
    for key in _LANGUAGE_KEYS:
        inner = config.values.get(key)
        stated = config.values.get("model_type")
        if isinstance(inner, Mapping) and (_known(inner.get("model_type", stated)) or not _known(stated)):
            outer = {own: config.values[own] for own in _OUTER_KEYS if own in config.values}
            config = HfConfig({**outer, **inner}, f"{config.source}, {key}")
            beside += [own for own in _BESIDE_KEYS if inner.get(own)]
    if not _known(config.model_type):
        known = ", ".join(sorted({each.removesuffix("_text") for each in (*families(), *TWINS, *OWN_FAMILIES)}))
        raise config.refusal(
            f"model_type = {shown(config.model_type)} is not an architecture llmload can size; known: {known}"
        )
    model = OWN_FAMILIES.get(config.model_type, decoder_only)(config, name)
    tower = image_tower_parameters(whole, model.hidden_size) or 0
    uncounted = tuple(key for key in dict.fromkeys(beside) if not (tower and key == "vision_config"))
    model = replace(model, image_tower=tower, image_states=image_states(whole), uncounted=uncounted)
    return with_quantisation(model, config)


def _known(model_type: object) -> bool:
    return model_type in families() or model_type in TWINS or model_type in OWN_FAMILIES


def decoder_only(config: HfConfig, name: str) -> ModelSpec:
    """Return the model of a config whose model_type is a family or a twin; ConfigError for a key that is missing."""
    traits = families()[TWINS.get(config.model_type, config.model_type)]
    config = config.renamed(traits.names, traits.defaults)
    if config.values.get("word_embed_proj_dim", config.count("hidden_size")) != config.count("hidden_size"):
        raise config.refusal(f"word_embed_proj_dim = {config.values['word_embed_proj_dim']} differs from hidden_size")
    listed = config.values.get("layers_block_type")
    count = config.count("num_hidden_layers", len(listed) if isinstance(listed, list) else None)
    kinds = layer_kinds(config, traits.layers, count, traits.period, recurrent=traits.recurrent)
    positions = config.count("max_position_embeddings") + traits.extra_positions if traits.learned_positions else 0
    head_key = traits.lm_head_bias_key
    model = ModelSpec(
        **identity(config, name),
        decoder=tuple(layer(config, traits, kind, i) for i, kind in enumerate(kinds)),
        max_position_tokens=config.optional_count("max_position_embeddings"),
        rotary_dim=0,
        learned_positions=positions,
        tied_embeddings=config.flag("tie_word_embeddings", default=traits.tied),
        lm_head_bias=config.flag(head_key, default=False) if head_key else traits.lm_head_bias,
        norm_bias=traits.norm_bias,
    )
    model = SPECIAL[traits.special](config, model) if traits.special else model
    return replace(model, rotary_dim=_rotary_dim(config, traits, model))


def _rotary_dim(config: HfConfig, traits: Traits, model: ModelSpec) -> int:
    rotated = (mixer for mixer in reversed([*model.mixers]) if not isinstance(mixer, Recurrent))
    last = next(rotated, None)
    if isinstance(last, LatentAttention):
        return last.qk_rope_head_dim
    if isinstance(last, CompressedAttention):
        return last.rope_head_dim
    if not traits.rotary or last is None:
        return 0
    return int(last.head_dim * config.fraction("partial_rotary_factor", traits.rotary))
