"""Families whose configs and layers are like no other's: Falcon, MPT, T5, Whisper."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from llmload.errors import shown
from llmload.sizing.architecture import Attention, Dense, Layer, ModelSpec, Weight
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.layer_parts import identity, intermediate_size, stated_head_dim


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
        **identity(config, name),
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
        **identity(config, name),
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
        **identity(config, name),
        encoder=(replace(encoder, mixer=first),) + (encoder,) * (layers - 1),
        decoder=(replace(decoder, mixer=first),) + (decoder,) * (config.count("num_decoder_layers", layers) - 1),
        max_position_tokens=None,
        rotary_dim=0,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
    )


def _whisper(config: HfConfig, name: str) -> ModelSpec:
    """Whisper: sound becomes a sequence of one length by two convolutions; keys have no bias."""
    hidden = config.count("hidden_size")

    def layer(stack: str, blocks: int) -> Layer:
        heads = config.count(f"{stack}_attention_heads")
        attention = Attention(heads=heads, kv_heads=heads, head_dim=hidden // heads, out_bias=True)
        return Layer(
            mixer=attention,
            cross=attention if blocks > 1 else None,
            feed_forward=Dense(intermediate_size=config.count(f"{stack}_ffn_dim"), gated=False, bias=True),
            norms=blocks + 1,
            extra=(Weight(name="self_attn.biases", part="attention", elements=2 * blocks * hidden),),
        )

    inputs, limit = config.count("max_source_positions", 1500), config.count("max_target_positions", 448)
    convolutions = 3 * hidden * (config.count("num_mel_bins", 80) + hidden) + 2 * hidden
    return ModelSpec(
        **identity(config, name),
        encoder=(layer("encoder", 1),) * config.count("encoder_layers"),
        decoder=(layer("decoder", 2),) * config.count("decoder_layers"),
        max_position_tokens=limit,
        rotary_dim=0,
        learned_positions=inputs + limit,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        norm_bias=True,
        extra=(Weight(name="conv", part="mlp", elements=convolutions, whole=True),),
        input_tokens=inputs,
    )


OWN_FAMILIES: Mapping[str, Callable[[HfConfig, str], ModelSpec]] = {
    "falcon": _falcon,
    "mpt": _mpt,
    "t5": _t5,
    "whisper": _whisper,
}
