"""The bytes of a model's weights by format, and the part of them that one rank of a parallel deployment holds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import (
    Attention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    Layer,
    Mixer,
    ModelSpec,
    ParameterCounts,
    count_parameters,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How wide a weight is, scales and zero points included, and which weights stay 16 bits wide."""

    bits: float
    embeddings_too: bool = False  # whether embedding and head are stored in it as well
    experts_only: bool = False  # in a mixture of experts, attention and shared blocks stay 16 bits wide


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
    narrow = (
        counts.experts
        if weight_format.experts_only and counts.experts
        else counts.attention + counts.mlp + counts.experts
    )
    if weight_format.embeddings_too:
        narrow += counts.embed + counts.lm_head
    kept_bits = max(_KEPT_BITS, weight_format.bits)
    return ceil((narrow * weight_format.bits + (counts.total - narrow) * kept_bits) / 8)


def default_format(model: ModelSpec) -> str:
    """Return the format of a model's files, else that of its config; raises ConfigError where it is unknown."""
    if model.checkpoint is not None:
        return FROM_FILE
    if model.weight_format is None:
        raise ConfigError(f"{model.source}: quantisation {model.quantisation!r} is not known: give --precision")
    return model.weight_format


_VOCAB_STEP = 64  # vLLM pads the vocabulary to a multiple of this before it splits it


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How many GPUs share one copy of a model: tensor x pipeline of them."""

    tensor: int = 1
    pipeline: int = 1
    expert: bool = False  # each tensor rank has whole experts instead of a slice of each

    @property
    def gpus(self) -> int:
        """GPUs of one copy of the model."""
        return self.tensor * self.pipeline


ONE_GPU = Parallelism()


def parallel_problems(model: ModelSpec, parallelism: Parallelism) -> list[str]:
    """Return why engines refuse to split the model this way, a sentence each; empty where they accept it."""
    tensor = parallelism.tensor
    problems = []
    for mixer in dict.fromkeys(layer.mixer for layer in model.layers):
        problems += _mixer_problems(mixer, tensor)
    if parallelism.pipeline > len(model.decoder):
        problems.append(f"{len(model.decoder)} layers cannot make {parallelism.pipeline} pipeline stages")
    if parallelism.expert and not any(isinstance(layer.feed_forward, Experts) for layer in model.decoder):
        problems.append("the model has no experts to distribute")
    return list(dict.fromkeys(problems))


def check_parallelism(model: ModelSpec, parallelism: Parallelism) -> None:
    """Raise ConfigError, naming each reason, when the model cannot be split this way."""
    problems = parallel_problems(model, parallelism)
    if problems:
        raise ConfigError(
            f"{model.name} with TP {parallelism.tensor}, PP {parallelism.pipeline}: {'; '.join(problems)}"
        )


def stage_layers(layers: int, stages: int) -> list[range]:
    """
    Return the decoder layers of each pipeline stage; a remainder goes to the stages before the last.

    Source: vLLM distributed/utils.py, `get_pp_indices`.
    """
    sizes = [layers // stages] * stages
    for i in range(2, layers % stages + 2):
        sizes[-i] += 1
    starts = [sum(sizes[:i]) for i in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def rank_model(model: ModelSpec, parallelism: Parallelism, stage: int = 0, expert_step: int = 1) -> ModelSpec:
    """
    Return the part of a model that one rank of a pipeline stage computes, with experts' width padded to `expert_step`.

    Raises ConfigError for a split that engines refuse. Source: vLLM's parallel linear layers (heads, widths and the
    vocabulary are split; norms, routers, latents and the bias of an output are copied whole).
    """
    check_parallelism(model, parallelism)
    if parallelism.gpus == 1 and expert_step == 1:
        return model
    own = stage_layers(len(model.decoder), parallelism.pipeline)[stage]
    cut = {layer: _rank_layer(layer, parallelism, expert_step) for layer in {*model.encoder, *model.decoder}}
    vocab = ceil(model.vocab_size / _VOCAB_STEP) * _VOCAB_STEP if parallelism.tensor > 1 else model.vocab_size
    return replace(
        model,
        vocab_size=ceil(vocab / parallelism.tensor),
        encoder=tuple(cut[layer] for layer in model.encoder),
        decoder=tuple(cut[model.decoder[i]] for i in own),
    )


def rank_counts(model: ModelSpec, parallelism: Parallelism, stage: int = 0, expert_step: int = 1) -> ParameterCounts:
    """
    Count the parameters of one rank of a pipeline stage: the first stage has the embedding, the last one the head.

    Raises ConfigError for a split that engines refuse.
    """
    part = rank_model(model, parallelism, stage, expert_step)
    counts = count_parameters(part)
    first, last = stage == 0, stage == parallelism.pipeline - 1
    embeds = first or (last and model.tied_embeddings)
    final_norms = model.final_norms * model.hidden_size * (1 + model.norm_bias)
    return replace(
        counts,
        embed=counts.embed if embeds else 0,
        lm_head=counts.lm_head if last else 0,
        norms=counts.norms if last else counts.norms - final_norms,
    )


def _mixer_problems(mixer: Mixer, tensor: int) -> list[str]:
    if isinstance(mixer, LatentAttention):
        return _indivisible(mixer.heads, "attention heads", tensor)
    if isinstance(mixer, Attention):
        problems = _indivisible(mixer.heads, "attention heads", tensor)
        if mixer.kv_heads % tensor and tensor % mixer.kv_heads:
            problems.append(
                f"{mixer.kv_heads} KV heads can be neither divided among nor copied onto {tensor} GPUs evenly"
            )
        return problems
    return _indivisible(mixer.key_heads, "key heads", tensor) + _indivisible(mixer.value_heads, "value heads", tensor)


def _indivisible(count: int, what: str, tensor: int) -> list[str]:
    return [f"{count} {what} are not divisible by {tensor}"] if count % tensor else []


def _rank_layer(layer: Layer, parallelism: Parallelism, expert_step: int) -> Layer:
    tensor = parallelism.tensor
    cross = _rank_attention(layer.cross, tensor) if layer.cross else None
    feed_forward = _rank_feed_forward(layer.feed_forward, parallelism, expert_step)
    return replace(layer, mixer=_rank_mixer(layer.mixer, tensor), feed_forward=feed_forward, cross=cross)


def _rank_mixer(mixer: Mixer, tensor: int) -> Mixer:
    if isinstance(mixer, Attention):
        return _rank_attention(mixer, tensor)
    if isinstance(mixer, LatentAttention):
        return replace(mixer, heads=mixer.heads // tensor)
    return replace(mixer, key_heads=mixer.key_heads // tensor, value_heads=mixer.value_heads // tensor)


def _rank_attention(mixer: Attention, tensor: int) -> Attention:
    return replace(mixer, heads=mixer.heads // tensor, kv_heads=max(1, mixer.kv_heads // tensor))


def _rank_feed_forward(block: FeedForward, parallelism: Parallelism, expert_step: int) -> FeedForward:
    tensor = parallelism.tensor
    if isinstance(block, Dense):
        return replace(block, intermediate_size=ceil(block.intermediate_size / tensor))
    shared = block.shared and replace(block.shared, intermediate_size=ceil(block.shared.intermediate_size / tensor))
    if parallelism.expert:
        count, width = ceil(block.count / tensor), block.intermediate_size
    else:
        count, width = block.count, ceil(block.intermediate_size / tensor)
    width = ceil(width / expert_step) * expert_step
    return replace(block, count=count, router_outputs=block.outputs, intermediate_size=width, shared=shared)
