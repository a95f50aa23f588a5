"""Decoder-only families: what each fixes in its code and leaves out of config.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from llmload.vram.hf_config import HfConfig

Reach = int | Literal["state"] | None  # a window in tokens, a recurrent state, or None for the whole context
Reaches = tuple[Reach, ...]


def _full(_config: HfConfig, layers: int) -> Reaches:
    return (None,) * layers


def _every_layer(config: HfConfig, layers: int) -> Reaches:
    return (config.optional_count("sliding_window"),) * layers


def _after_full_layers(config: HfConfig, layers: int) -> Reaches:
    """Qwen2 states a window even where it is switched off; switched on, it spares the first max_window_layers."""
    if not config.flag("use_sliding_window", default=False):
        return _full(config, layers)
    window, full = config.optional_count("sliding_window"), config.count("max_window_layers")
    return tuple(None if i < full else window for i in range(layers))


def _one_full_in(period: int, config: HfConfig, layers: int) -> Reaches:
    window = config.count("sliding_window")
    period = config.count("sliding_window_pattern", period)
    return tuple(None if (i + 1) % period == 0 else window for i in range(layers))


def _state_but_one_in_four(config: HfConfig, layers: int) -> Reaches:
    period = config.count("full_attention_interval", 4)
    return tuple(None if (i + 1) % period == 0 else "state" for i in range(layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the code of a decoder-only family decides; keys named here are read from the config, others are fixed."""

    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    attention_bias_key: str | None = None  # decides all four projections
    mlp_bias: bool = False
    mlp_bias_key: str | None = None
    gated: bool = True
    qk_norm: bool = False  # one norm for all query heads, one for all key heads
    wide_qk_norm: bool = False  # as wide as all query heads together, and all key heads
    norms: int = 2
    norm_bias: bool = False
    sinks: bool = False
    gated_attention: bool = False
    shared_gate: bool = False
    lm_head_bias: bool = False
    rotary: float = 1.0  # share of head_dim that is rotated
    learned_positions: bool = False
    four_times_hidden: bool = False  # what a missing intermediate_size means
    extra_positions: int = 0
    expert_bias: bool = False
    router_bias: bool = False
    one_kv_head_per_head: bool = False  # what a missing num_key_value_heads means
    reach: Callable[[HfConfig, int], Reaches] = _full
    defaults: Mapping[str, int] = field(default_factory=dict)  # class defaults that published configs leave out


_LLAMA = Traits(attention_bias_key="attention_bias", mlp_bias_key="mlp_bias", one_kv_head_per_head=True)
_QWEN3 = Traits(attention_bias_key="attention_bias", qk_norm=True, reach=_after_full_layers, defaults={"head_dim": 128})
_GEMMA = Traits(tied=True, attention_bias_key="attention_bias", defaults={"head_dim": 256})
_GEMMA3_SIZES = {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
_GPT2 = Traits(
    tied=True, qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norm_bias=True, rotary=0.0,
    learned_positions=True, one_kv_head_per_head=True,
)  # fmt: skip

DECODERS: Mapping[str, Traits] = {
    "llama": _LLAMA,
    "mistral": Traits(reach=_every_layer),
    "mixtral": Traits(reach=_every_layer),
    "qwen2": Traits(qkv_bias=True, reach=_after_full_layers),
    "qwen3": _QWEN3,
    "qwen3_moe": replace(_QWEN3, defaults={}),
    "qwen2_moe": Traits(qkv_bias=True, reach=_after_full_layers, shared_gate=True),
    "qwen3_next": replace(
        _QWEN3, reach=_state_but_one_in_four, defaults={"head_dim": 256}, gated_attention=True, shared_gate=True,
        rotary=0.25,
    ),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, norms=4, reach=partial(_one_full_in, 2)),
    "gemma3_text": replace(
        _GEMMA, norms=4, qk_norm=True, reach=partial(_one_full_in, 6), defaults=_GEMMA3_SIZES
    ),
    "phi": replace(_GPT2, tied=False, norms=1, lm_head_bias=True, rotary=0.5, learned_positions=False),
    "phi3": Traits(reach=_every_layer, one_kv_head_per_head=True),
    "gpt2": replace(_GPT2, four_times_hidden=True),
    "opt": replace(_GPT2, extra_positions=2),
    "gpt_oss": Traits(
        attention_bias_key="attention_bias", qkv_bias=True, out_bias=True, sinks=True, expert_bias=True,
        router_bias=True, reach=partial(_one_full_in, 2), defaults={"head_dim": 64},
    ),
    "deepseek_v2": Traits(tied=False, attention_bias_key="attention_bias"),
    "deepseek_v3": Traits(tied=False, attention_bias_key="attention_bias", router_bias=True),
    "mistral4": Traits(attention_bias_key="attention_bias"),
    "ministral": Traits(reach=_every_layer),
    "ministral3": Traits(reach=_every_layer),
    "granite": _LLAMA,
    "granitemoe": replace(_LLAMA, mlp_bias_key=None),
    "olmo2": replace(_LLAMA, mlp_bias_key=None, wide_qk_norm=True),
    "olmo3": replace(_LLAMA, mlp_bias_key=None, wide_qk_norm=True, reach=partial(_one_full_in, 4)),
    "olmoe": replace(_LLAMA, mlp_bias_key=None, wide_qk_norm=True),
    "exaone4": Traits(qk_norm=True, reach=partial(_one_full_in, 4)),
    "cohere2": Traits(
        tied=True, norms=1, attention_bias_key="attention_bias", reach=partial(_one_full_in, 4),
        defaults={"head_dim": 128},
    ),
    "nemotron": replace(_LLAMA, gated=False, norm_bias=True, rotary=0.5),
    "arcee": replace(_LLAMA, gated=False),
    "hunyuan_v1_dense": Traits(qk_norm=True, attention_bias_key="attention_bias", one_kv_head_per_head=True),
    "ernie4_5": Traits(
        tied=True, attention_bias_key="use_bias", mlp_bias_key="use_bias", one_kv_head_per_head=True,
        defaults={"head_dim": 128},
    ),
    "starcoder2": Traits(
        tied=True, qkv_bias=True, out_bias=True, mlp_bias=True, attention_bias_key="use_bias", mlp_bias_key="use_bias",
        gated=False, norm_bias=True, reach=_every_layer,
    ),
    "gpt_neox": Traits(
        attention_bias_key="attention_bias", qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norm_bias=True,
        rotary=0.25, one_kv_head_per_head=True,
    ),
}  # fmt: skip

# The language models of these are another family's, layer for layer.
TWINS: Mapping[str, str] = {
    "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "kimi_k2": "deepseek_v3",
}  # fmt: skip
