"""From a Hugging Face config to a ModelSpec; an architecture that is not known is refused, never guessed."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from llmload.vram.decoders import decoder_only, intermediate_size, stated_head_dim
from llmload.vram.hf_config import HfConfig
from llmload.vram.model import Attention, Dense, Layer, ModelSpec
from llmload.vram.quantisation import declared_format
from llmload.vram.traits import DECODERS, TWINS

# What a multimodal config states beside its language model, and means for it.
_OUTER_KEYS = ("tie_word_embeddings", "quantization_config", "dtype", "torch_dtype")


def model_from_config(config: HfConfig, name: str) -> ModelSpec:
    """
    The model that a config describes; a multimodal config gives its language model and names what is left out.

    Raises ConfigError, naming file, key and value, for an architecture that is not known: it is never guessed.
    """
    inner = config.values.get("text_config")
    uncounted = tuple(key for key in ("vision_config", "audio_config") if config.values.get(key))
    if isinstance(inner, Mapping) and (inner.get("model_type") in _BUILDERS or config.model_type not in _BUILDERS):
        outer = {
            k: config.values[k]
            for k in ("tie_word_embeddings", "quantization_config", "dtype", "torch_dtype")
            if k in config.values
        }
        config = HfConfig({**outer, **inner}, f"{config.source}, text_config")
    build = _BUILDERS.get(config.model_type)
    if build is None:
        known = ", ".join(sorted(_BUILDERS))
        raise config.refusal(
            f"model_type = {config.model_type!r} is not an architecture llmload can size; known: {known}"
        )
    declared = config.values.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, Mapping) else None
    form = declared_format(config.values)
    return replace(build(config, name), uncounted=uncounted, quantisation=method, weight_format=form)


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
        name=name,
        source=config.source,
        model_type=config.model_type,
        vocab_size=config.count("vocab_size"),
        hidden_size=config.count("hidden_size"),
        decoder=(Layer(mixer=mixer, feed_forward=feed_forward, norms=1 if one_norm else 2),)
        * config.count("num_hidden_layers"),
        max_position_tokens=config.optional_count("max_position_embeddings"),
        rotary_dim=0 if config.flag("alibi", default=False) else mixer.head_dim,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        norm_bias=True,
    )


def _mpt(config: HfConfig, name: str) -> ModelSpec:
    """MPT with ALiBi and one key head a head, which is what Transformers implements; other variants are refused."""
    attention = config.values.get("attn_config") or {}
    if not attention.get("alibi", True):
        raise config.refusal("attn_config.alibi = false is not known for mpt")
    if attention.get("attn_type", "multihead_attention") != "multihead_attention":
        raise config.refusal(f"attn_config.attn_type = {attention['attn_type']!r} is not known for mpt")
    heads, bias = config.count("num_attention_heads"), not config.flag("no_bias", default=True)
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=stated_head_dim(config), qkv_bias=bias, out_bias=bias)
    width = config.count("expansion_ratio", 4) * config.count("hidden_size")
    layer = Layer(mixer=mixer, feed_forward=Dense(intermediate_size=width, gated=False, bias=bias))
    return ModelSpec(
        name=name,
        source=config.source,
        model_type=config.model_type,
        vocab_size=config.count("vocab_size"),
        hidden_size=config.count("hidden_size"),
        decoder=(layer,) * config.count("num_hidden_layers"),
        max_position_tokens=config.optional_count("max_position_embeddings"),
        rotary_dim=0,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        norm_bias=bias,
    )


def _t5(config: HfConfig, name: str) -> ModelSpec:
    """T5 and its kin: relative positions learned once a stack, kept in its first layer."""
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
        name=name,
        source=config.source,
        model_type=config.model_type,
        vocab_size=config.count("vocab_size"),
        hidden_size=config.count("hidden_size"),
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
