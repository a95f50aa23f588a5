"""What some families add to the layers that their traits give."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from llmload.sizing.architecture import Attention, Dense, Experts, Layer, ModelSpec, Part, Recurrent, Weight
from llmload.sizing.hf_config import HfConfig


def _gemma4(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """
    Gemma 4: full layers have wider and fewer heads, the last layers read earlier ones' keys and values.

    Experts work beside a dense block, not instead of it; small models have an embedding for each layer.
    """
    count = len(model.decoder)
    first_shared = count - config.whole("num_kv_shared_layers", 0)
    with_experts = config.flag("enable_moe_block", default=False)
    double = config.flag("use_double_wide_mlp", default=False)
    width = config.count("intermediate_size")
    layers = []
    for i, each in enumerate(model.decoder):
        shared = i >= first_shared
        dense = Dense(intermediate_size=width * 2 if double and shared else width)
        own = each.feed_forward
        block = replace(own, shared=dense) if with_experts and isinstance(own, Experts) else dense
        layers.append(
            replace(
                each,
                mixer=_gemma4_attention(config, each, shared=shared),
                feed_forward=block,
                norms=each.norms + 3 * with_experts,
                extra=(
                    _vectors("layer_scalar", "norms", 1),
                    *((_vectors("router", "router", _gemma4_router(config, model)),) if with_experts else ()),
                ),
            )
        )
    return _with_layer_embeddings(config, replace(model, decoder=tuple(layers)))


def _attention(layer: Layer) -> Attention:
    """The attention of a layer of a family that has nothing else."""
    if not isinstance(layer.mixer, Attention):
        raise TypeError(f"{layer.mixer} is not attention")
    return layer.mixer


def _gemma4_router(config: HfConfig, model: ModelSpec) -> int:
    """Scales of the router: one an input, one an expert."""
    return model.hidden_size + config.count("n_routed_experts")


def _gemma4_attention(config: HfConfig, layer: Layer, *, shared: bool) -> Attention:
    mixer = _attention(layer)
    if mixer.window_tokens is None:
        tied = config.flag("attention_k_eq_v", default=False)
        few = config.count("num_global_key_value_heads", mixer.kv_heads) if tied else mixer.kv_heads
        mixer = replace(mixer, head_dim=config.count("global_head_dim", 512), kv_heads=few, key_is_value=tied)
    return replace(mixer, shares_cache=shared, norm_elements=(1 if shared else 2) * mixer.head_dim)


def _with_layer_embeddings(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """Per-layer embeddings: a table beside the usual one, and in each layer a gate, a projection and a norm."""
    width = config.whole("hidden_size_per_layer_input", 256)
    if not width:
        return model
    hidden, packed = model.hidden_size, width * len(model.decoder)
    own = (
        _matrix("per_layer_input_gate", "mlp", width, hidden),
        _matrix("per_layer_projection", "mlp", hidden, width),
    )
    table = config.count("vocab_size_per_layer_input", 262144) * packed
    return replace(
        model,
        decoder=tuple(replace(each, norms=each.norms + 1, extra=(*each.extra, *own)) for each in model.decoder),
        extra=(
            Weight(name="embed_tokens_per_layer", part="embed", elements=table),
            _matrix("per_layer_model_projection", "mlp", packed, hidden),
            _vectors("per_layer_projection_norm", "norms", width),
        ),
    )


def _gemma3n(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """Gemma 3n: several predictions of the hidden state (AltUp), a learned residual (LAuReL), embeddings by layer."""
    hidden, inputs = model.hidden_size, config.count("altup_num_inputs", 4)
    rank = config.count("laurel_rank", 64)
    first_shared = len(model.decoder) - config.whole("num_kv_shared_layers", 15)
    layers = []
    for i, each in enumerate(model.decoder):
        mixer = _attention(each)
        shared = i >= first_shared
        mixer = replace(mixer, shares_cache=shared, norm_elements=(1 if shared else 2) * mixer.head_dim)
        extra = (
            _matrix("laurel.linear_left", "mlp", rank, hidden),
            _matrix("laurel.linear_right", "mlp", hidden, rank),
            _vectors("altup", "mlp", hidden + inputs**2 + inputs**3 + inputs * hidden),
        )
        layers.append(replace(each, mixer=mixer, norms=each.norms + 2, extra=extra))
    model = _with_layer_embeddings(config, replace(model, decoder=tuple(layers)))
    projections = _matrix("altup_projections", "mlp", 2 * (inputs - 1) * hidden, hidden)
    return replace(model, extra=(*model.extra, projections))


def _mimo_v2(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """MiMo-V2: layers with a window have other heads, and a learned sink each."""

    def attention(layer: Layer) -> Layer:
        mixer = _attention(layer)
        windowed = mixer.window_tokens is not None
        own = "swa_" if windowed else ""
        sinks = "add_swa_attention_sink_bias" if windowed else "add_full_attention_sink_bias"
        changed = replace(
            mixer,
            heads=config.count(f"{own}num_attention_heads", mixer.heads),
            kv_heads=config.count(f"{own}num_key_value_heads", mixer.kv_heads),
            head_dim=config.count(f"{own}head_dim", mixer.head_dim),
            v_head_dim=config.optional_count(f"{own}v_head_dim"),
            sinks=config.flag(sinks, default=windowed),
        )
        return replace(layer, mixer=changed)

    return replace(model, decoder=tuple(attention(each) for each in model.decoder))


def _minimax_m3(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """MiniMax-M3: an indexer beside the attention of most layers, as its own list or layer_types say."""
    stated = config.values.get("sparse_attention_config")
    own = HfConfig(stated if isinstance(stated, Mapping) else {}, f"{config.source}, sparse_attention_config")
    types = config.values.get("layer_types") or ()
    listed = own.values.get("sparse_attention_freq") or [each == "minimax_m3_sparse" for each in types]
    if not isinstance(listed, list) or len(listed) != len(model.decoder):
        raise own.refusal(f"sparse_attention_freq does not have one entry for each of the {len(model.decoder)} layers")
    heads = own.count("sparse_num_index_heads", config.count("index_n_heads", 4))
    dim = own.count("sparse_index_dim", config.count("index_head_dim", 128))
    layers = [
        replace(each, mixer=replace(_attention(each), index_heads=heads, index_head_dim=dim)) if indexed else each
        for each, indexed in zip(model.decoder, listed, strict=True)
    ]
    return replace(model, decoder=tuple(layers))


def _lfm2(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """LFM2: the stated width, where it says so, is that of an ungated block: two thirds of it, rounded up."""
    width = config.count("intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", default=True):
        factor = config.values.get("block_ffn_dim_multiplier", 1.0)
        step = config.count("block_multiple_of", 256)
        width = step * -(-int((factor or 1.0) * int(2 * width / 3)) // step)
    dense = Dense(intermediate_size=width)
    return replace(model, decoder=tuple(replace(each, feed_forward=dense) for each in model.decoder))


def _zamba2(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """
    Zamba2: some layers begin with one of a few blocks of attention and feed-forward, which they share.

    Each such layer has its own cache, a projection of the block's output and adapters of low rank.
    """
    hidden, heads = model.hidden_size, config.count("num_attention_heads")
    seen, width = 2 * hidden, config.count("intermediate_size", 4 * hidden)
    rank, attends = config.count("adapter_rank", 128), config.flag("use_shared_attention_adapter", default=False)
    kv_heads, head_dim = config.count("num_key_value_heads", heads), seen // heads
    attention = Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim, borrows_weights=True)
    adapters = rank * (3 * 2 * seen * attends + hidden + 2 * width)
    own = (_part("linear", "mlp", hidden, hidden), _part("adapters", "mlp", adapters // rank, rank))
    listed = config.values.get("layers_block_type")
    hybrid = [each == "hybrid" for each in listed] if isinstance(listed, list) else []
    decoder = tuple(
        replace(layer, mixer=attention, beside=layer.mixer, extra=own)
        if isinstance(layer.mixer, Recurrent) and shared
        else layer
        for layer, shared in zip(model.decoder, hybrid, strict=True)
    )
    blocks = config.count("num_mem_blocks", 1)
    shared = (
        _part(
            "shared_transformer.self_attn",
            "attention",
            blocks * ((heads + 2 * kv_heads) * seen + heads * hidden),
            head_dim,
        ),
        _part("shared_transformer.feed_forward", "mlp", blocks * 3 * width, hidden),
        _vectors("shared_transformer.norms", "norms", blocks * (seen + hidden)),
    )
    return replace(model, decoder=decoder, extra=shared)


def _mllama(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """Llama 3.2 Vision: some layers attend to the images alone, behind gates; eight more tokens have embeddings."""
    across = config.values.get("cross_attention_layers") or ()
    gates = (_vectors("cross_attn_gates", "attention", 2),)

    def changed(layer: Layer, i: int) -> Layer:
        if i not in across:
            return layer
        own = _attention(layer)
        return replace(layer, mixer=None, cross=replace(own, norm_elements=2 * own.head_dim), extra=gates)

    decoder = tuple(changed(layer, i) for i, layer in enumerate(model.decoder))
    tokens = Weight(name="embed_tokens", part="embed", elements=8 * model.hidden_size)
    return replace(model, decoder=decoder, extra=(tokens,))


_HASH_LAYERS = 3  # where a config does not say


def _deepseek_v4(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """
    DeepSeek-V4: several streams of hidden states that each block mixes, and first layers that route by token.

    Its cache is fp8 unless another type is given.
    """
    streams, hidden = config.count("hc_mult", 4), model.hidden_size
    mixed = (2 + streams) * streams
    mixing = Weight(name="hc", part="mlp", elements=2 * (mixed * (streams * hidden + 1) + 3), whole=True)
    table = Weight(
        name="mlp.gate.tid2eid",
        part="router",
        elements=model.vocab_size * config.count("num_experts_per_tok"),
        whole=True,
    )
    stated = config.values.get("mlp_layer_types")
    hashed = stated.count("hash_moe") if isinstance(stated, list) else config.whole("num_hash_layers", _HASH_LAYERS)

    def changed(layer: Layer, i: int) -> Layer:
        if i >= hashed or not isinstance(layer.feed_forward, Experts):
            return replace(layer, extra=(mixing,))
        return replace(layer, extra=(mixing, table), feed_forward=replace(layer.feed_forward, router_bias=False))

    head = Weight(name="hc_head", part="mlp", elements=streams * (streams * hidden + 1) + 1, whole=True)
    decoder = tuple(changed(layer, i) for i, layer in enumerate(model.decoder))
    return replace(model, decoder=decoder, extra=(head,), kv_dtype="fp8")


def _kimi_linear(config: HfConfig, model: ModelSpec) -> ModelSpec:
    """Kimi K3: each block chooses among earlier blocks' outputs, and the experts' latent may have a norm."""
    hidden, normed = model.hidden_size, config.flag("latent_moe_use_norm", default=False)
    chooses = config.has("attn_res_block_size")

    def changed(layer: Layer) -> Layer:
        latent = layer.feed_forward.latent_size if isinstance(layer.feed_forward, Experts) else None
        extra = (_vectors("routed_expert_norm", "norms", latent),) if latent and normed else ()
        residual = (_vectors("res_proj", "mlp", 2 * hidden),) if chooses else ()
        return replace(layer, norms=layer.norms + 2 * chooses, extra=(*layer.extra, *extra, *residual))

    outside = (_vectors("output_attn_res", "norms", 2 * hidden),) if chooses else ()
    return replace(model, decoder=tuple(changed(each) for each in model.decoder), extra=(*model.extra, *outside))


def _matrix(name: str, part: Part, rows: int, columns: int) -> Weight:
    return Weight(name=name, part=part, elements=rows * columns, columns=columns, whole=True)


def _part(name: str, part: Part, rows: int, columns: int) -> Weight:
    """A matrix that tensor ranks divide."""
    return Weight(name=name, part=part, elements=rows * columns, columns=columns)


def _vectors(name: str, part: Part, elements: int) -> Weight:
    return Weight(name=name, part=part, elements=elements, whole=True)


SPECIAL: Mapping[str, Callable[[HfConfig, ModelSpec], ModelSpec]] = {
    "gemma4": _gemma4,
    "gemma3n": _gemma3n,
    "mimo_v2": _mimo_v2,
    "minimax_m3": _minimax_m3,
    "lfm2": _lfm2,
    "deepseek_v4": _deepseek_v4,
    "kimi_linear": _kimi_linear,
    "zamba2": _zamba2,
    "mllama": _mllama,
}
