"""What weights take in memory, by the format they are stored in."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from llmload.vram.parameters import ParameterCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How wide a weight is, scales and zero points included, and which weights stay 16 bits wide."""

    bits: float
    embeddings_too: bool = False  # whether embedding and head are stored in it as well
    experts_only: bool = False  # in a mixture of experts, attention and shared blocks stay 16 bits wide


# What the bits hold beside the weight. w4a16, AWQ, GPTQ: a 16-bit scale and a 4-bit zero point for each group of 128.
# NF4: a 32-bit scale for each 64. NVFP4: an 8-bit scale for each 16. MXFP4: an 8-bit scale for each 32. q*: ggml's
# blocks; a GGUF file mixes these, so its own header is the better source where there is one.
WEIGHT_FORMATS: Mapping[str, WeightFormat] = {
    "fp32": WeightFormat(bits=32, embeddings_too=True),
    "bf16": WeightFormat(bits=16, embeddings_too=True),
    "fp8": WeightFormat(bits=8),
    "int8": WeightFormat(bits=8),
    "w4a16": WeightFormat(bits=4 + 20 / 128),
    "nf4": WeightFormat(bits=4.5),
    "nvfp4": WeightFormat(bits=4.5),
    "mxfp4": WeightFormat(bits=4.25, experts_only=True),
    "q8_0": WeightFormat(bits=8.5, embeddings_too=True),
    "q6_K": WeightFormat(bits=6.5625, embeddings_too=True),
    "q5_K": WeightFormat(bits=5.5, embeddings_too=True),
    "q4_K": WeightFormat(bits=4.5, embeddings_too=True),
    "q3_K": WeightFormat(bits=3.4375, embeddings_too=True),
    "q2_K": WeightFormat(bits=2.625, embeddings_too=True),
}
FROM_FILE = "file"  # beside these: as the headers of the weight files say
_KEPT_BITS = 16


def weights_bytes(counts: ParameterCounts, weight_format: WeightFormat) -> int:
    """
    Bytes of a model's weights on one GPU; norms and router stay 16 bits wide in every format narrower than that.

    Sources: the format's block layout (ggml; AWQ and GPTQ with groups of 128; OCP Microscaling v1.0 for MXFP4).
    """
    narrow = (
        counts.experts
        if weight_format.experts_only and counts.experts
        else counts.attention + counts.mlp + counts.experts
    )
    if weight_format.embeddings_too:
        narrow += counts.embed + counts.lm_head
    kept_bits = max(_KEPT_BITS, weight_format.bits)
    return ceil((narrow * weight_format.bits + (counts.total - narrow) * kept_bits) / 8)
