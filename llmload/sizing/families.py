"""From a Hugging Face config to a ModelSpec, by architecture; an unknown architecture is refused, never guessed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypedDict

from llmload.errors import shown
from llmload.sizing.architecture import (
    Attention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    Layer,
    Mixer,
    ModelSpec,
)
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.quantisation import with_quantisation
from llmload.sizing.recurrent import gated_delta_rule

Reach = int | Literal["state"] | None  # a window in tokens, a recurrent state, or None for the whole context
Reaches = tuple[Reach, ...]


def _full(_config: HfConfig, layers: int) -> Reaches:
    return (None,) * layers


def _every_layer(config: HfConfig, layers: int) -> Reaches:
    return (config.optional_count("sliding_window"),) * layers


def _after_full_layers(config: HfConfig, layers: int) -> Reaches:
    """Qwen2 states a window even where it is off; where it is on, the first max_window_layers have none."""
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
    rotary: float = 1.0  # fraction of head_dim that is rotated
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

# Model types whose language model is another family's, layer for layer.
TWINS: Mapping[str, str] = {
    "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "kimi_k2": "deepseek_v3",
}  # fmt: skip

# What a multimodal config states beside its language model, and means for it.
_OUTER_KEYS = ("tie_word_embeddings", "quantization_config", "dtype", "torch_dtype")


def decoder_only(config: HfConfig, name: str) -> ModelSpec:
    """Return the model of a config whose model_type is in DECODERS or TWINS; ConfigError for a key that is missing."""
    traits = DECODERS[TWINS.get(config.model_type, config.model_type)]
    if config.values.get("word_embed_proj_dim", config.count("hidden_size")) != config.count("hidden_size"):
        raise config.refusal(f"word_embed_proj_dim = {config.values['word_embed_proj_dim']} differs from hidden_size")
    layers = config.count("num_hidden_layers")
    reaches = _stated_reach(config, layers) or traits.reach(config, layers)
    decoder = tuple(
        Layer(mixer=_mixer(config, traits, reach), feed_forward=_feed_forward(config, traits, i), norms=traits.norms)
        for i, reach in enumerate(reaches)
    )
    positions = config.count("max_position_embeddings") + traits.extra_positions if traits.learned_positions else 0
    return ModelSpec(
        **_identity(config, name, traits.defaults.get("vocab_size")),
        decoder=decoder,
        max_position_tokens=config.optional_count("max_position_embeddings"),
        rotary_dim=_rotary_dim(config, traits, decoder[-1]),
        learned_positions=positions,
        tied_embeddings=config.flag("tie_word_embeddings", default=traits.tied),
        lm_head_bias=traits.lm_head_bias,
        norm_bias=traits.norm_bias,
    )


def _stated_reach(config: HfConfig, layers: int) -> Reaches | None:
    """What each layer reaches by `layer_types`, which newer configs state and which overrules the family's pattern."""
    kinds = config.values.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise config.refusal(f"layer_types does not have one entry for each of the {layers} layers")
    return tuple(_reach_of(kind, config) for kind in kinds)


def _reach_of(kind: object, config: HfConfig) -> Reach:
    if kind == "full_attention":
        return None
    if kind == "sliding_attention":
        return config.count("sliding_window")
    if kind == "linear_attention" and config.has("linear_num_key_heads"):
        return "state"
    raise config.refusal(f"layer_types holds {shown(kind)}, which is not known for {config.model_type}")


def _rotary_dim(config: HfConfig, traits: Traits, last: Layer) -> int:
    if isinstance(last.mixer, LatentAttention):
        return last.mixer.qk_rope_head_dim
    if not traits.rotary or not isinstance(last.mixer, Attention):
        return 0
    return int(last.mixer.head_dim * config.fraction("partial_rotary_factor", traits.rotary))


def stated_head_dim(config: HfConfig, default: int | None = None) -> int:
    """Return the config's head_dim where it has one: Gemma's and Qwen3's is not hidden_size / heads."""
    if config.has("head_dim") or default:
        return config.count("head_dim", default)
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    if hidden % heads:
        raise config.refusal(
            f"hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}, and head_dim is missing"
        )
    return hidden // heads


def _mixer(config: HfConfig, traits: Traits, reach: Reach) -> Mixer:
    if reach == "state":
        return gated_delta_rule(config)
    heads = config.count("num_attention_heads", traits.defaults.get("num_attention_heads"))
    if config.has("kv_lora_rank"):
        return _latent_attention(config, traits, heads)
    return _head_attention(config, traits, heads, reach)


def _latent_attention(config: HfConfig, traits: Traits, heads: int) -> LatentAttention:
    key = traits.attention_bias_key
    return LatentAttention(
        heads=heads,
        q_lora_rank=config.optional_count("q_lora_rank"),
        kv_lora_rank=config.count("kv_lora_rank"),
        qk_nope_head_dim=config.count("qk_nope_head_dim"),
        qk_rope_head_dim=config.count("qk_rope_head_dim"),
        v_head_dim=config.count("v_head_dim"),
        bias=config.flag(key, default=False) if key else False,
    )


def _head_attention(config: HfConfig, traits: Traits, heads: int, window_tokens: int | None) -> Attention:
    key = traits.attention_bias_key
    kv_default = heads if traits.one_kv_head_per_head else traits.defaults.get("num_key_value_heads")
    kv_heads = config.count("num_key_value_heads", kv_default)
    head_dim = stated_head_dim(config, traits.defaults.get("head_dim"))
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window_tokens=window_tokens,
        qkv_bias=config.flag(key, default=traits.qkv_bias) if key else traits.qkv_bias,
        out_bias=config.flag(key, default=traits.out_bias) if key else traits.out_bias,
        norm_elements=(heads + kv_heads if traits.wide_qk_norm else 2 * traits.qk_norm) * head_dim,
        sinks=traits.sinks,
        gated_output=traits.gated_attention,
    )


def _feed_forward(config: HfConfig, traits: Traits, layer: int) -> FeedForward:
    if not config.has("n_routed_experts") or not _is_sparse(config, layer):
        key = traits.mlp_bias_key
        return Dense(
            intermediate_size=intermediate_size(config, or_four_times_hidden=traits.four_times_hidden),
            gated=traits.gated,
            bias=config.flag(key, default=traits.mlp_bias) if key else traits.mlp_bias,
        )
    size = config.count("moe_intermediate_size", config.optional_count("intermediate_size"))
    return Experts(
        count=config.count("n_routed_experts"),
        per_token=config.count("num_experts_per_tok"),
        intermediate_size=size,
        bias=traits.expert_bias,
        router_bias=traits.router_bias,
        shared=_shared_expert(config, traits, size),
    )


def _shared_expert(config: HfConfig, traits: Traits, expert_size: int) -> Dense | None:
    """The block of every token beside its experts: DeepSeek counts it in experts, Qwen gives its width."""
    if config.values.get("shared_expert_intermediate_size"):
        width = config.count("shared_expert_intermediate_size")
        return Dense(intermediate_size=width, output_gate=traits.shared_gate)
    if config.values.get("n_shared_experts"):
        return Dense(intermediate_size=config.count("n_shared_experts") * expert_size)
    return None


def intermediate_size(config: HfConfig, *, or_four_times_hidden: bool) -> int:
    """Return the width of the feed-forward block; some families leave it out where it is four times the hidden size."""
    return config.count("intermediate_size", 4 * config.count("hidden_size") if or_four_times_hidden else None)


def _is_sparse(config: HfConfig, layer: int) -> bool:
    """Whether a layer of a mixture of experts has experts: some begin dense, some are dense at stated layers."""
    dense_first = config.whole("first_k_dense_replace", 0)
    dense_layers = config.values.get("mlp_only_layers") or ()
    every = config.count("moe_layer_freq", config.count("decoder_sparse_step", 1))
    counted = layer + 1 if "decoder_sparse_step" in config.values else layer
    return layer >= dense_first and layer not in dense_layers and counted % every == 0


def model_from_config(config: HfConfig, name: str) -> ModelSpec:
    """
    Return the model that a config describes; a multimodal config gives its language model and names what is left out.

    Raises ConfigError, naming file, key and value, for an architecture that is not known.
    """
    inner = config.values.get("text_config")
    uncounted = tuple(key for key in ("vision_config", "audio_config") if config.values.get(key))
    if isinstance(inner, Mapping) and (inner.get("model_type") in _BUILDERS or config.model_type not in _BUILDERS):
        outer = {key: config.values[key] for key in _OUTER_KEYS if key in config.values}
        config = HfConfig({**outer, **inner}, f"{config.source}, text_config")
    build = _BUILDERS.get(config.model_type)
    if build is None:
        known = ", ".join(sorted(_BUILDERS))
        raise config.refusal(
            f"model_type = {shown(config.model_type)} is not an architecture llmload can size; known: {known}"
        )
    return with_quantisation(replace(build(config, name), uncounted=uncounted), config)


class _Identity(TypedDict):
    name: str
    source: str
    model_type: str
    vocab_size: int
    hidden_size: int


def _identity(config: HfConfig, name: str, vocab_size: int | None = None) -> _Identity:
    """What every architecture takes from its config alike."""
    return {
        "name": name,
        "source": config.source,
        "model_type": config.model_type,
        "vocab_size": config.count("vocab_size", vocab_size),
        "hidden_size": config.count("hidden_size"),
    }


def _falcon(config: HfConfig, name: str) -> ModelSpec:
    heads, bias = config.count("num_attention_heads"), config.flag("bias", default=False)
    grouped = config.flag("new_decoder_architecture", default=False)
    one_head = config.flag("multi_query", default=True) and not grouped
    kv_heads = 1 if one_head else config.count("num_key_value_heads", heads)
    mixer = Attention(heads=heads, kv_heads=kv_heads, head_dim=stated_head_dim(config), qkv_bias=bias, out_bias=bias)
    feed_forward = Dense(intermediate_size=intermediate_size(config, or_four_times_hidden=True), gated=False, bias=bias)
    one_norm = config.flag("parallel_attn", default=True) and not grouped
    if grouped and config.values.get("num_ln_in_parallel_attn") == 1:
        one_norm = True
    return ModelSpec(
        **_identity(config, name),
        decoder=(Layer(mixer=mixer, feed_forward=feed_forward, norms=1 if one_norm else 2),)
        * config.count("num_hidden_layers"),
        max_position_tokens=config.optional_count("max_position_embeddings"),
        rotary_dim=0 if config.flag("alibi", default=False) else mixer.head_dim,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        norm_bias=True,
    )


def _mpt(config: HfConfig, name: str) -> ModelSpec:
    """MPT with ALiBi and a key head for each head, as Transformers implements it; other variants are refused."""
    attention = config.values.get("attn_config") or {}
    if not isinstance(attention, Mapping):
        raise config.refusal(f"attn_config = {shown(attention)} is not an object")
    if not attention.get("alibi", True):
        raise config.refusal("attn_config.alibi = false is not known for mpt")
    if attention.get("attn_type", "multihead_attention") != "multihead_attention":
        raise config.refusal(f"attn_config.attn_type = {shown(attention['attn_type'])} is not known for mpt")
    heads, bias = config.count("num_attention_heads"), not config.flag("no_bias", default=True)
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=stated_head_dim(config), qkv_bias=bias, out_bias=bias)
    width = config.count("expansion_ratio", 4) * config.count("hidden_size")
    layer = Layer(mixer=mixer, feed_forward=Dense(intermediate_size=width, gated=False, bias=bias))
    return ModelSpec(
        **_identity(config, name),
        decoder=(layer,) * config.count("num_hidden_layers"),
        max_position_tokens=config.optional_count("max_position_embeddings"),
        rotary_dim=0,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        norm_bias=bias,
    )


def _t5(config: HfConfig, name: str) -> ModelSpec:
    """T5 and its variants: relative positions are learned once a stack, in its first layer."""
    heads = config.count("num_attention_heads")
    self_attention = Attention(heads=heads, kv_heads=heads, head_dim=config.count("d_kv"))
    buckets = config.count("relative_attention_num_buckets", 32)
    gated = config.text("feed_forward_proj", "relu").startswith("gated")
    feed_forward = Dense(intermediate_size=config.count("intermediate_size"), gated=gated)
    encoder = Layer(mixer=self_attention, feed_forward=feed_forward)
    decoder = Layer(mixer=self_attention, cross=self_attention, feed_forward=feed_forward, norms=3)
    layers = config.count("num_hidden_layers")
    first = replace(self_attention, relative_buckets=buckets)
    return ModelSpec(
        **_identity(config, name),
        encoder=(replace(encoder, mixer=first),) + (encoder,) * (layers - 1),
        decoder=(replace(decoder, mixer=first),) + (decoder,) * (config.count("num_decoder_layers", layers) - 1),
        max_position_tokens=None,
        rotary_dim=0,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
    )


_BUILDERS: Mapping[str, Callable[[HfConfig, str], ModelSpec]] = {
    **dict.fromkeys((*DECODERS, *TWINS), decoder_only),
    "falcon": _falcon,
    "mpt": _mpt,
    "t5": _t5,
}
