"""Which layer of a model is of which kind: a rule a family, named in families.toml, that reads the config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmload.errors import shown
from llmload.sizing.hf_config import HfConfig

Feeds = Literal["either", "dense", "experts", "nothing"]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """How one layer mixes tokens and what it feeds them to; `either` leaves that to the family's rule for experts."""

    window_tokens: int | None = None  # None: attends to the whole context
    recurrent: bool = False  # keeps a state instead of keys and values
    attends: bool = True
    feeds: Feeds = "either"
    indexed: bool = False  # its attention has an indexer
    ratio: int | None = None  # tokens in one latent behind its window; 0: it has none


Kinds = list[LayerKind]
Rule = Callable[[HfConfig, int, int], Kinds]  # config, layers, the family's period
FULL, STATE = LayerKind(), LayerKind(recurrent=True)


def layer_kinds(config: HfConfig, rule: str, layers: int, period: int, *, recurrent: str | None) -> Kinds:
    """
    Return the kind of each layer by the family's rule; `layer_types`, where a config states it, overrules patterns.

    Raises ConfigError for kinds that the family does not have, and lists of another length.
    """
    if rule in _OWN:
        return _OWN[rule](config, layers, period)
    stated = config.values.get("layer_types") or config.values.get("layers_block_type")
    if stated is not None or rule == "listed":
        return [_stated(kind, config, recurrent) for kind in _listed(config, stated, "layer_types", layers)]
    return _PATTERNS[rule](config, layers, period)


def _listed(config: HfConfig, values: object, key: str, layers: int) -> list[Any]:
    if not isinstance(values, list) or len(values) != layers:
        raise config.refusal(f"{key} does not have one entry for each of the {layers} layers")
    return values


def _stated(kind: object, config: HfConfig, recurrent: str | None) -> LayerKind:
    if kind in ("full_attention", "attention"):
        return FULL
    if kind == "sliding_attention":
        return LayerKind(config.count("sliding_window"))
    if recurrent and kind in ("linear_attention", "mamba", "conv"):
        return STATE
    raise config.refusal(f"layer_types holds {shown(kind)}, which is not known for {config.model_type}")


def _full(_config: HfConfig, layers: int, _period: int) -> Kinds:
    return [FULL] * layers


def _every_layer(config: HfConfig, layers: int, _period: int) -> Kinds:
    return [LayerKind(config.optional_count("sliding_window"))] * layers


def _after_full_layers(config: HfConfig, layers: int, period: int) -> Kinds:
    """Qwen2 states a window even where it is off; where it is on, the first max_window_layers have none."""
    if not config.flag("use_sliding_window", default=False):
        return _full(config, layers, period)
    window, full = config.optional_count("sliding_window"), config.count("max_window_layers")
    return [LayerKind(None if i < full else window) for i in range(layers)]


def _one_full_in(config: HfConfig, layers: int, period: int) -> Kinds:
    window = config.count("sliding_window")
    period = config.count("sliding_window_pattern", period)
    return [LayerKind(None if (i + 1) % period == 0 else window) for i in range(layers)]


def _state_but_one_in(config: HfConfig, layers: int, period: int) -> Kinds:
    period = config.count("full_attention_interval", period)
    return [FULL if (i + 1) % period == 0 else STATE for i in range(layers)]


def _lfm2(config: HfConfig, layers: int, _period: int) -> Kinds:
    """LFM2 lists its attention layers; without a list, all are."""
    full = config.values.get("full_attn_idxs")
    return [FULL if full is None or i in full else STATE for i in range(layers)]


def _smollm3(config: HfConfig, layers: int, period: int) -> Kinds:
    """SmolLM3's windows, where they are on, are those of its layers without rotation."""
    if not config.flag("use_sliding_window", default=False):
        return _full(config, layers, period)
    interval, window = config.count("no_rope_layer_interval", 4), config.optional_count("sliding_window")
    return [LayerKind(window if (i + 1) % interval == 0 else None) for i in range(layers)]


def _indexed(config: HfConfig, layers: int, _period: int) -> Kinds:
    """DeepSeek's sparse attention: `indexer_types`, a pattern or a frequency says which layers have an indexer."""
    types = config.values.get("indexer_types") or config.values.get("index_topk_pattern")
    if types is None:
        frequency, offset = config.count("index_topk_freq", 1), config.count("index_skip_topk_offset", 2)
        return [LayerKind(indexed=max(i - offset + 1, 0) % frequency == 0) for i in range(layers)]
    listed = _listed(config, list(types), "indexer_types", layers)
    return [LayerKind(indexed=each in ("full", "F")) for each in listed]


def _zamba2(config: HfConfig, layers: int, _period: int) -> Kinds:
    """Zamba2: Mamba in each layer, and no feed-forward block but in those that are shared."""
    for each in _listed(config, config.values.get("layers_block_type"), "layers_block_type", layers):
        if each not in ("mamba", "linear_attention", "hybrid"):
            raise config.refusal(f"layers_block_type holds {shown(each)}, which is not known for zamba2")
    return [LayerKind(recurrent=True, feeds="nothing")] * layers


_RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def _compressed(config: HfConfig, layers: int, _period: int) -> Kinds:
    """DeepSeek-V4: a ratio a layer, of which those for drafts come last, or its kind by name."""
    ratios = config.values.get("compress_ratios")
    if ratios is None:
        named = config.values.get("compress_rates")
        rates = {"sliding_attention": 0, **_RATES, **(named if isinstance(named, Mapping) else {})}
        types = _listed(config, config.values.get("layer_types"), "layer_types", layers)
        ratios = [rates.get(each) for each in types]
    if not isinstance(ratios, list) or len(ratios) < layers:
        raise config.refusal(f"compress_ratios does not have one entry for each of the {layers} layers")
    if unknown := [each for each in ratios if each not in (0, *_RATES.values())]:
        raise config.refusal(f"compress_ratios holds {shown(unknown[0])}, which is not known for {config.model_type}")
    window = config.count("sliding_window")
    return [LayerKind(window, ratio=each, indexed=each == min(_RATES.values())) for each in ratios[:layers]]


_NEMOTRON: Mapping[str, LayerKind] = {
    "M": LayerKind(recurrent=True, feeds="nothing"),
    "*": LayerKind(feeds="nothing"),
    "-": LayerKind(attends=False, feeds="dense"),
    "E": LayerKind(attends=False, feeds="experts"),
}
_NEMOTRON_NAMES = {
    "mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E",
}  # fmt: skip


def _nemotron_h(config: HfConfig, layers: int, _period: int) -> Kinds:
    """Nemotron-H: each layer is one block, by a letter or by name."""
    stated = config.values.get("hybrid_override_pattern") or config.values.get("layers_block_type")
    blocks = [_NEMOTRON_NAMES.get(str(each), str(each)) for each in stated or ()]
    for block in _listed(config, blocks, "hybrid_override_pattern", layers):
        if block not in _NEMOTRON:
            raise config.refusal(f"hybrid_override_pattern holds {shown(block)}, which is not known for nemotron_h")
    return [_NEMOTRON[block] for block in blocks]


def _kimi_linear(config: HfConfig, layers: int, _period: int) -> Kinds:
    """Kimi Linear lists its layers of full attention, the first one being 1."""
    own = config.values.get("linear_attn_config")
    full = own.get("full_attn_layers") if isinstance(own, Mapping) else None
    if not isinstance(full, list):
        raise config.refusal("linear_attn_config.full_attn_layers is missing")
    return [FULL if i + 1 in full else STATE for i in range(layers)]


def _bamba(config: HfConfig, layers: int, _period: int) -> Kinds:
    full = config.values.get("attn_layer_indices") or ()
    return [FULL if i in full else STATE for i in range(layers)]


def _jamba(config: HfConfig, layers: int, _period: int) -> Kinds:
    period, offset = config.count("attn_layer_period", 8), config.whole("attn_layer_offset", 4)
    return [FULL if i % period == offset else STATE for i in range(layers)]


def _llama4(_config: HfConfig, layers: int, _period: int) -> Kinds:
    """vLLM keeps the whole context of chunked layers too, unless VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE."""
    return [FULL] * layers


def _mimo_v2(config: HfConfig, layers: int, _period: int) -> Kinds:
    """MiMo-V2: 1 marks a layer with a window."""
    pattern = _listed(config, config.values.get("hybrid_layer_pattern"), "hybrid_layer_pattern", layers)
    return [LayerKind(config.count("sliding_window")) if each else FULL for each in pattern]


_PATTERNS: Mapping[str, Rule] = {
    "full": _full,
    "every_layer": _every_layer,
    "after_full_layers": _after_full_layers,
    "one_full_in": _one_full_in,
    "state_but_one_in": _state_but_one_in,
    "lfm2": _lfm2,
    "smollm3": _smollm3,
}
_OWN: Mapping[str, Rule] = {
    "indexed": _indexed,
    "compressed": _compressed,
    "zamba2": _zamba2,
    "nemotron_h": _nemotron_h,
    "kimi_linear": _kimi_linear,
    "bamba": _bamba,
    "jamba": _jamba,
    "llama4": _llama4,
    "mimo_v2": _mimo_v2,
    "minimax_m3": _full,
}
