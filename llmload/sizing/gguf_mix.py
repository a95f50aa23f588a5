"""What llama.cpp stores each tensor in when it quantises to a mix such as Q4_K_M: more bits where it hurts most."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from llmload.sizing.architecture import Attention, Experts, ModelSpec, Part, Weight
from llmload.sizing.parameters import layer_weights

# ggml's blocks: bits of a weight, scales included.
_BITS: Final[Mapping[str, float]] = {
    "Q2_K": 2.625, "Q3_K": 3.4375, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.5625,
    "Q4_0": 4.5, "Q5_0": 5.5, "Q5_1": 6.0, "Q8_0": 8.5, "IQ4_NL": 4.5, "F16": 16.0, "F32": 32.0,
}  # fmt: skip
MIXES: Final[Mapping[str, str]] = {
    "Q2_K": "Q2_K", "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K", "Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q5_0": "Q5_0",
}  # fmt: skip
"""The type of most tensors of each mix, by the mix's name as files have it."""
_BLOCK, _SMALL_BLOCK = 256, 32
_INSTEAD: Final[Mapping[str, str]] = {
    "Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
_FUSED = ("phi", "phi3", "gpt2", "gpt_neox", "mpt")  # queries, keys and values are one tensor


def mix_bits(model: ModelSpec, mix: str) -> Mapping[Part, float]:
    """
    Return the mean bits of a parameter of each part under one of MIXES.

    Source: llama.cpp src/llama-quant.cpp, `llama_tensor_get_type`, without an importance matrix's exceptions. Vectors
    and routers stay 32 bits wide.
    """
    elements: defaultdict[Part, int] = defaultdict(int)
    bits: defaultdict[Part, float] = defaultdict(float)
    for i, layer in enumerate(model.decoder):
        for weight in layer_weights(layer, model.hidden_size):
            elements[weight.part] += weight.elements
            bits[weight.part] += weight.elements * _BITS[_kind(model, weight, i, mix)]
    own: dict[Part, float] = {part: bits[part] / count for part, count in elements.items() if count}
    output = _BITS[_fitting("Q8_0" if mix == "Q8_0" else "Q6_K", model.hidden_size)]
    table = output if model.tied_embeddings else _BITS[_fitting(MIXES[mix], model.hidden_size)]
    return {**own, "norms": _BITS["F32"], "embed": table, "lm_head": output}


def _kind(model: ModelSpec, weight: Weight, i: int, mix: str) -> str:
    if not weight.columns:
        return "F32"
    layers = len(model.decoder)
    if weight.name.endswith("down_proj"):
        return _fitting(_down(mix, i, layers), weight.columns)
    wide = _attention(model, weight.name.rpartition(".")[2], i, mix)
    return _fitting(wide or MIXES[mix], weight.columns)


def _fitting(kind: str, columns: int) -> str:
    """A type whose blocks fill a row: where 256 do not divide it, one with blocks of 32."""
    if kind in _INSTEAD and columns % _BLOCK:
        kind = _INSTEAD[kind]
    return kind if columns % _SMALL_BLOCK == 0 else "F16"


def _more(i: int, layers: int) -> bool:
    """The layers that get more bits: the first and last eighth, and each third between."""
    return i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2


def _down(mix: str, i: int, layers: int) -> str:
    if mix in ("Q4_K_M", "Q5_K_M") and _more(i, layers):
        return "Q6_K"
    if mix == "Q3_K_M":
        return "Q5_K" if i < layers // 16 else "Q4_K"
    if mix == "Q4_K_S" and i < layers // 8:
        return "Q5_K"
    return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}.get(mix, MIXES[mix])


def _attention(model: ModelSpec, name: str, i: int, mix: str) -> str | None:
    """The type of a matrix of attention that gets other bits than most; None for all others."""
    fused = model.model_type in _FUSED and name in ("q_proj", "k_proj", "v_proj")
    if fused or name == "in_proj_qkv":  # of a gated delta rule
        return {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(mix)
    eight = any(isinstance(each.feed_forward, Experts) and each.feed_forward.count == 8 for each in model.decoder)
    if name == "v_proj":
        return "Q8_0" if eight else _values(model, i, mix)
    if name == "k_proj" and eight:
        return "Q8_0"
    if name != "o_proj":
        return None
    if eight and mix in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"):
        return "Q5_K"
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(mix)


def _values(model: ModelSpec, i: int, mix: str) -> str:
    mixer = next((each for each in model.mixers if isinstance(each, Attention)), None)
    shared = mixer is not None and mixer.heads >= 4 * mixer.kv_heads
    kind = {"Q2_K": "Q4_K" if shared else "Q3_K", "Q3_K_L": "Q5_K"}.get(mix, MIXES[mix])
    if mix == "Q3_K_M":
        kind = "Q5_K" if i < 2 else "Q4_K"
    elif mix in ("Q4_K_M", "Q5_K_M") and _more(i, len(model.decoder)):
        kind = "Q6_K"
    elif mix == "Q4_K_S" and i < 4:
        kind = "Q5_K"
    large = len(model.decoder) == 80 and shared  # llama.cpp's "70B"
    return "Q5_K" if large and kind in ("Q3_K", "Q4_K") else kind
