"""One layer of a decoder from its config and its family's traits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from llmload.sizing.architecture import (
    Attention,
    CompressedAttention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    Layer,
    Mixer,
)
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.layer_kinds import LayerKind
from llmload.sizing.recurrent import RECURRENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the code of a decoder-only family decides; keys named here are read from the config, others are fixed."""

    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    attention_bias_key: str | None = None  # decides all four projections
    out_bias_key: str | None = None  # decides the output's; "none": it never has one
    mlp_bias: bool = False
    mlp_bias_key: str | None = None
    gated: bool = True
    qk_norm: bool = False  # one norm for all query heads, one for all key heads
    wide_qk_norm: bool = False  # as wide as all query heads together, and all key heads
    qk_norm_key: str | None = None  # decides whether there are any
    norms: int = 2
    norm_bias: bool = False
    sinks: bool = False
    gated_attention: bool = False
    shared_gate: bool = False
    shared_experts: int = 0  # where the config does not say
    shared_width: str | None = None  # the key of the shared experts' width, all together
    lm_head_bias: bool = False
    lm_head_bias_key: str | None = None
    rotary: float = 1.0  # fraction of head_dim that is rotated
    learned_positions: bool = False
    four_times_hidden: bool = False  # what a missing intermediate_size means
    extra_positions: int = 0
    expert_bias: bool = False
    router_bias: bool = False
    one_kv_head_per_head: bool = False  # what a missing num_key_value_heads means
    layers: str = "full"  # the rule in layer_kinds.py
    period: int = 1
    sparse: str = "usual"  # the rule for which layers have experts
    recurrent: str | None = None  # the builder in recurrent.py
    beside: str | None = None  # one that runs side by side with attention in every layer
    special: str | None = None  # what special_families.py adds
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)  # class defaults that published configs leave out


def layer(config: HfConfig, traits: Traits, kind: LayerKind, i: int) -> Layer:
    """Return layer i; ConfigError for a key that is missing."""
    feeds = kind.feeds
    if feeds == "either":
        feeds = "experts" if config.whole("n_routed_experts", 0) and _is_sparse(config, traits, i) else "dense"
    feed_forward: FeedForward | None = None
    if feeds != "nothing":
        feed_forward = _experts(config, traits, i) if feeds == "experts" else _dense(config, traits, i)
    return Layer(
        mixer=_mixer(config, traits, kind),
        beside=RECURRENT[traits.beside](config) if traits.beside else None,
        feed_forward=feed_forward,
        norms=traits.norms,
    )


def stated_head_dim(config: HfConfig) -> int:
    """Return the config's head_dim where it has one: Gemma's and Qwen3's is not hidden_size / heads."""
    if config.has("head_dim"):
        return config.count("head_dim")
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    if hidden % heads:
        raise config.refusal(
            f"hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}, and head_dim is missing"
        )
    return hidden // heads


def _mixer(config: HfConfig, traits: Traits, kind: LayerKind) -> Mixer | None:
    if not kind.attends:
        return None
    if kind.recurrent:
        if traits.recurrent is None:
            raise config.refusal(f"a recurrent layer is not known for {config.model_type}")
        return RECURRENT[traits.recurrent](config)
    if kind.ratio is not None:
        return _compressed_attention(config, kind, kind.ratio)
    if config.has("kv_lora_rank"):
        return _latent_attention(config, traits, kind)
    return _head_attention(config, traits, kind.window_tokens)


def _latent_attention(config: HfConfig, traits: Traits, kind: LayerKind) -> LatentAttention:
    key = traits.attention_bias_key
    return LatentAttention(
        heads=config.count("num_attention_heads"),
        q_lora_rank=config.optional_count("q_lora_rank"),
        kv_lora_rank=config.count("kv_lora_rank"),
        qk_nope_head_dim=config.count("qk_nope_head_dim"),
        qk_rope_head_dim=config.count("qk_rope_head_dim"),
        v_head_dim=config.count("v_head_dim"),
        bias=config.flag(key, default=False) if key else False,
        gated_output=config.flag("mla_use_output_gate", default=False),
        index_heads=config.count("index_n_heads") if kind.indexed else 0,
        index_head_dim=config.count("index_head_dim") if kind.indexed else 0,
    )


def _compressed_attention(config: HfConfig, kind: LayerKind, ratio: int) -> CompressedAttention:
    return CompressedAttention(
        heads=config.count("num_attention_heads"),
        head_dim=config.count("head_dim"),
        rope_head_dim=config.count("qk_rope_head_dim"),
        q_lora_rank=config.count("q_lora_rank"),
        out_groups=config.count("o_groups"),
        out_lora_rank=config.count("o_lora_rank"),
        window_tokens=config.count("sliding_window"),
        ratio=ratio,
        index_heads=config.count("index_n_heads") if kind.indexed else 0,
        index_head_dim=config.count("index_head_dim") if kind.indexed else 0,
    )


def _head_attention(config: HfConfig, traits: Traits, window_tokens: int | None) -> Attention:
    heads = config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads if traits.one_kv_head_per_head else None)
    head_dim = stated_head_dim(config)
    key, out_key = traits.attention_bias_key, traits.out_bias_key or traits.attention_bias_key
    normed = config.flag(traits.qk_norm_key, default=False) if traits.qk_norm_key else True
    norm_heads = heads + kv_heads if traits.wide_qk_norm else 2 * traits.qk_norm
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window_tokens=window_tokens,
        qkv_bias=config.flag(key, default=traits.qkv_bias) if key else traits.qkv_bias,
        out_bias=out_key != "none" and (config.flag(out_key, default=traits.out_bias) if out_key else traits.out_bias),
        norm_elements=normed * norm_heads * head_dim,
        sinks=traits.sinks,
        gated_output=traits.gated_attention,
    )


def _dense(config: HfConfig, traits: Traits, i: int) -> Dense:
    own_width = next((each for each in _DENSE_WIDTHS if config.has(each) and each in traits.names), None)
    four_times = 4 * config.count("hidden_size") if traits.four_times_hidden else None
    return Dense(
        intermediate_size=config.count(own_width) if own_width else config.of_layer("intermediate_size", i, four_times),
        gated=traits.gated,
        bias=_mlp_bias(config, traits),
    )


def _mlp_bias(config: HfConfig, traits: Traits) -> bool:
    key = traits.mlp_bias_key
    return config.flag(key, default=traits.mlp_bias) if key else traits.mlp_bias


# Where a family's dense layers, or the blocks beside no experts, have another width.
_DENSE_WIDTHS = ("dense_intermediate_size", "shared_expert_intermediate_size")


def _experts(config: HfConfig, traits: Traits, i: int) -> Experts:
    fallback = None if config.has("moe_intermediate_size") else config.of_layer("intermediate_size", i)
    size = config.of_layer("moe_intermediate_size", i, fallback)
    return Experts(
        count=config.count("n_routed_experts"),
        per_token=config.of_layer("num_experts_per_tok", i),
        intermediate_size=size,
        bias=traits.expert_bias,
        router_bias=traits.router_bias,
        shared=_shared_expert(config, traits, size, i),
        gated=traits.gated,
        latent_size=config.optional_count("moe_latent_size"),
    )


def _shared_expert(config: HfConfig, traits: Traits, expert_size: int, i: int) -> Dense | None:
    """The block of every token beside its experts: DeepSeek counts it in experts, Qwen gives its width."""
    if traits.shared_width:
        width = config.count(traits.shared_width)
        return Dense(intermediate_size=width, gated=traits.gated, bias=_mlp_bias(config, traits))
    if config.values.get("shared_expert_intermediate_size"):
        width = config.count("shared_expert_intermediate_size")
        return Dense(intermediate_size=width, output_gate=traits.shared_gate)
    if config.values.get("n_shared_experts"):
        width = config.of_layer("n_shared_experts", i) * expert_size
        return Dense(intermediate_size=width, bias=_mlp_bias(config, traits))
    return Dense(intermediate_size=traits.shared_experts * expert_size) if traits.shared_experts else None


def intermediate_size(config: HfConfig, *, or_four_times_hidden: bool) -> int:
    """Return the width of the feed-forward block; some families leave it out where it is four times the hidden size."""
    return config.count("intermediate_size", 4 * config.count("hidden_size") if or_four_times_hidden else None)


def _is_sparse(config: HfConfig, traits: Traits, i: int) -> bool:
    """Whether layer i of a mixture of experts has experts: some begin dense, some are dense at stated layers."""
    types = config.values.get("mlp_layer_types")
    if isinstance(types, list) and i < len(types):
        return bool(types[i] == "sparse")
    if traits.sparse == "between":  # ERNIE
        last = config.values.get("moe_layer_end_index", -1)
        last = config.count("num_hidden_layers") - 1 if last == -1 else last
        first, every = config.whole("moe_layer_start_index", 1), config.count("moe_layer_interval", 1)
        return bool(first <= i <= last and (i + 1) % every == 0)
    if traits.sparse == "listed":  # MiMo-V2
        listed = config.values.get("moe_layer_freq")
        return bool(isinstance(listed, list) and i < len(listed) and listed[i])
    if traits.sparse == "llama4":
        chosen, step = config.values.get("moe_layers"), config.count("interleave_moe_layer_step", 1)
        return i in chosen if isinstance(chosen, list) else (i + 1) % step == 0
    if traits.sparse == "jamba":
        return i % config.count("expert_layer_period", 2) == config.whole("expert_layer_offset", 1)
    dense_layers = config.values.get("mlp_only_layers") or ()
    every = config.count("moe_layer_freq", config.count("decoder_sparse_step", 1))
    counted = i + 1 if "decoder_sparse_step" in config.values else i
    return i >= config.whole("first_k_dense_replace", 0) and i not in dense_layers and counted % every == 0


class Identity(TypedDict):
    """What every architecture takes from its config alike."""

    name: str
    source: str
    model_type: str
    vocab_size: int
    hidden_size: int


def identity(config: HfConfig, name: str) -> Identity:
    """Return what every architecture takes from its config alike; ConfigError for a key that is missing."""
    return {
        "name": name,
        "source": config.source,
        "model_type": config.model_type,
        "vocab_size": config.count("vocab_size"),
        "hidden_size": config.count("hidden_size"),
    }
