"""From the config of a decoder-only model and its family's traits to its layers."""

from llmload.vram.hf_config import HfConfig
from llmload.vram.model import (
    Attention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    Layer,
    LinearAttention,
    Mixer,
    ModelSpec,
)
from llmload.vram.traits import DECODERS, TWINS, Reach, Reaches, Traits


def decoder_only(config: HfConfig, name: str) -> ModelSpec:
    """The model of a config whose model_type is in DECODERS or TWINS; raises ConfigError for what is missing."""
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
        name=name,
        source=config.source,
        model_type=config.model_type,
        vocab_size=config.count("vocab_size", traits.defaults.get("vocab_size")),
        hidden_size=config.count("hidden_size"),
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
    raise config.refusal(f"layer_types holds {kind!r}, which is not known for {config.model_type}")


def _rotary_dim(config: HfConfig, traits: Traits, last: Layer) -> int:
    if isinstance(last.mixer, LatentAttention):
        return last.mixer.qk_rope_head_dim
    if not traits.rotary or not isinstance(last.mixer, Attention):
        return 0
    return int(last.mixer.head_dim * config.fraction("partial_rotary_factor", traits.rotary))


def stated_head_dim(config: HfConfig, default: int | None = None) -> int:
    """The config's own head_dim first: Gemma, Qwen3 and Mistral-Nemo have heads wider than hidden_size / heads."""
    if config.has("head_dim") or default:
        return config.count("head_dim", default)
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    if hidden % heads:
        raise config.refusal(
            f"hidden_size = {hidden} is no multiple of num_attention_heads = {heads}, and head_dim is missing"
        )
    return hidden // heads


def _mixer(config: HfConfig, traits: Traits, reach: Reach) -> Mixer:
    if reach == "state":
        return LinearAttention(
            key_heads=config.count("linear_num_key_heads"),
            value_heads=config.count("linear_num_value_heads"),
            key_dim=config.count("linear_key_head_dim"),
            value_dim=config.count("linear_value_head_dim"),
            conv_kernel=config.count("linear_conv_kernel_dim"),
        )
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
    """The block every token passes through beside its experts: DeepSeek counts it in experts, Qwen gives its width."""
    if config.values.get("shared_expert_intermediate_size"):
        width = config.count("shared_expert_intermediate_size")
        return Dense(intermediate_size=width, output_gate=traits.shared_gate)
    if config.values.get("n_shared_experts"):
        return Dense(intermediate_size=config.count("n_shared_experts") * expert_size)
    return None


def intermediate_size(config: HfConfig, *, or_four_times_hidden: bool) -> int:
    """The width of the feed-forward block; some families leave it out where it is four times the hidden size."""
    return config.count("intermediate_size", 4 * config.count("hidden_size") if or_four_times_hidden else None)


def _is_sparse(config: HfConfig, layer: int) -> bool:
    """Whether a layer of a mixture of experts has experts: some begin dense, some are dense at stated layers."""
    dense_first = config.values.get("first_k_dense_replace", 0)
    dense_layers = config.values.get("mlp_only_layers") or ()
    every = config.count("moe_layer_freq", config.count("decoder_sparse_step", 1))
    counted = layer + 1 if "decoder_sparse_step" in config.values else layer
    return layer >= dense_first and layer not in dense_layers and counted % every == 0
