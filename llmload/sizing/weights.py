"""How many bytes a model's weights take by the format that they are stored in."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import Experts, ModelSpec, Part, Recurrent
from llmload.sizing.gguf_mix import MIXES, mix_bits
from llmload.sizing.parameters import ParameterCounts, count_parameters, layer_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How wide a weight is, scales and zero points included, and which weights stay 16 bits wide."""

    bits: float
    embeddings_too: bool = False  # whether embedding and head are stored in it as well
    experts_only: bool = False  # in a mixture of experts, attention and shared blocks stay 16 bits wide
    part_bits: Mapping[Part, float] | None = None  # of one model: bits by part, whatever the other fields say


# Bits beside the weight itself. w4a16, AWQ, GPTQ: a 16-bit scale and a 4-bit zero point for each group of 128.
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
FROM_FILE = "file"  # the format that the weight files' headers state
_KEPT_BITS = 16


def weights_bytes(counts: ParameterCounts, weight_format: WeightFormat) -> int:
    """
    Return the bytes of a model's weights on one GPU; norms and router stay 16 bits wide in narrower formats.

    Sources: the format's block layout (ggml; AWQ and GPTQ with groups of 128; OCP Microscaling v1.0 for MXFP4).
    """
    if weight_format.part_bits is not None:
        bits = weight_format.part_bits
        return ceil(sum(count * bits.get(part, _KEPT_BITS) for part, count in counts.parts.items()) / 8)
    narrow = (
        counts.experts
        if weight_format.experts_only and counts.experts
        else counts.attention + counts.mlp + counts.experts
    )
    if weight_format.embeddings_too:
        narrow += counts.embed + counts.lm_head
    kept_bits = max(_KEPT_BITS, weight_format.bits)
    return ceil((narrow * weight_format.bits + (counts.total - narrow) * kept_bits) / 8)


_SMALL_GROUPS: Mapping[str, float] = {"w4a16": 4.625}  # groups of 32 with zero points


def most_weights_bytes(model: ModelSpec, counts: ParameterCounts, name: str) -> int:
    """
    Return the most bytes that checkpoints have whose format is known by its name alone.

    Of models with experts or recurrent layers, some leave attention 16 bits wide and have smaller groups. Raises
    ConfigError for an unknown name.
    """
    form = format_of(model, name)
    most = weights_bytes(counts, form)
    mixed = any(isinstance(mixer, Recurrent) for mixer in model.mixers)
    experts = any(isinstance(layer.feed_forward, Experts) for layer in model.decoder)
    if not (mixed or experts) or form.part_bits is not None or form.bits >= _KEPT_BITS:
        return most
    kept = 0 if form.experts_only else counts.attention * (_KEPT_BITS - form.bits)
    smaller = (counts.mlp + counts.experts) * (_SMALL_GROUPS.get(name, form.bits) - form.bits)
    return most + ceil((kept + smaller) / 8)


def format_of(model: ModelSpec, name: str) -> WeightFormat:
    """
    Return a model's (or a rank's) format by name: its own as its checkpoint declares it, others by WEIGHT_FORMATS.

    Raises ConfigError for an unknown name.
    """
    if name == model.weight_format and any(layer.stored_bits for layer in model.layers):
        return WeightFormat(bits=_KEPT_BITS, part_bits=_declared_bits(model))
    if name in WEIGHT_FORMATS:
        return WEIGHT_FORMATS[name]
    if name.upper() in MIXES:
        return WeightFormat(bits=_KEPT_BITS, part_bits=mix_bits(model, name.upper()))
    known = ", ".join((*WEIGHT_FORMATS, *MIXES))
    raise ConfigError(f"precision {name!r} is not known for {model.name}; known: {known}")


def _declared_bits(model: ModelSpec) -> Mapping[Part, float]:
    """Mean bits of a parameter in each part, weighted by what each weight is stored in."""
    elements: defaultdict[Part, int] = defaultdict(int)
    bits: defaultdict[Part, float] = defaultdict(float)
    for layer, layers in Counter(model.layers).items():
        stored = dict(layer.stored_bits)
        for weight in layer_weights(layer, model.hidden_size):
            elements[weight.part] += layers * weight.elements
            bits[weight.part] += layers * weight.elements * stored.get(weight.name, _KEPT_BITS)
    own: dict[Part, float] = {part: bits[part] / count for part, count in elements.items() if count}
    outside = dict(model.stored_bits)
    return own | {"embed": outside.get("embed", _KEPT_BITS), "lm_head": outside.get("lm_head", _KEPT_BITS)}


def default_format(model: ModelSpec) -> str:
    """Return the format of a model's files, else that of its config; raises ConfigError where it is unknown."""
    if model.checkpoint is not None:
        return FROM_FILE
    if model.weight_format is None:
        raise ConfigError(f"{model.source}: {model.unread}: give --precision, or a directory with the weight files")
    return model.weight_format


def file_bytes(model: ModelSpec, counts: ParameterCounts) -> float:
    """
    Return the bytes of some of a model's parameters as its files store them, each part with its own mean width.

    Where the files' names are not known, the parameters' fraction of all is taken for that of the bytes. Raises
    ConfigError where no files were read.
    """
    if model.checkpoint is None:
        raise ConfigError(f"{model.source}: no weight files were read")
    whole = count_parameters(model)
    stored = dict(model.checkpoint.part_bytes)
    if not stored:
        return model.checkpoint.language_bytes * counts.total / whole.total
    return sum(stored.get(part, 0) * n / whole.parts[part] for part, n in counts.parts.items() if whole.parts[part])
