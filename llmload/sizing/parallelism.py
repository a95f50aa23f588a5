"""How a model is divided among GPUs, and the part of it that one of them holds."""

from dataclasses import dataclass, replace
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import (
    Attention,
    CompressedAttention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    Layer,
    Mixer,
    ModelSpec,
    Recurrent,
)
from llmload.sizing.parameters import ParameterCounts, count_parameters

_VOCAB_STEP = 64  # vLLM pads the vocabulary to a multiple of this before it splits it


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How many GPUs share one copy of a model: tensor x pipeline x data of them."""

    tensor: int = 1
    pipeline: int = 1
    expert: bool = False  # each tensor rank has whole experts instead of a slice of each
    data: int = 1  # groups, each with its own attention and cache, among which the experts are divided: DP attention
    context: int = 1  # tensor ranks among which a cached context is divided, where each would hold it whole: DCP

    @property
    def gpus(self) -> int:
        """GPUs of one copy of the model."""
        return self.tensor * self.pipeline * self.data

    @property
    def text(self) -> str:
        """The split as people write it."""
        parts = {"PP": self.pipeline, "DP attention": self.data, "DCP": self.context}
        return ", ".join([f"TP {self.tensor}", *(f"{name} {size}" for name, size in parts.items() if size > 1)])


ONE_GPU = Parallelism()


def parallel_problems(model: ModelSpec, parallelism: Parallelism) -> list[str]:
    """Return why engines refuse to split the model this way, a sentence each; empty where they accept it."""
    tensor = parallelism.tensor
    problems = []
    for mixer in dict.fromkeys(mixer for layer in model.layers for mixer in layer.mixers):
        problems += _mixer_problems(mixer, tensor)
    if parallelism.pipeline > len(model.decoder):
        problems.append(f"{len(model.decoder)} layers cannot make {parallelism.pipeline} pipeline stages")
    has_experts = any(isinstance(layer.feed_forward, Experts) for layer in model.decoder)
    if parallelism.expert and not has_experts:
        problems.append("the model has no experts to distribute")
    if parallelism.data > 1 and not has_experts:
        problems.append("DP attention divides experts, and the model has none: copies of it do the same")
    if parallelism.context > 1:
        problems += _context_problems(model, parallelism)
    return list(dict.fromkeys(problems))


def _context_problems(model: ModelSpec, parallelism: Parallelism) -> list[str]:
    """Ranks that would hold the same of a context divide it. Source: vLLM, `--decode-context-parallel-size`."""
    mixers = {layer.mixer for layer in model.layers}
    if len(mixers) > 1 or not all(isinstance(mixer, Attention | LatentAttention) for mixer in mixers):
        return ["DCP is not known for layers that differ in what they keep"]
    (mixer,) = mixers
    if isinstance(mixer, Attention) and mixer.window_tokens is not None:
        return ["DCP is not known for sliding windows"]
    same = parallelism.tensor // mixer.kv_heads if isinstance(mixer, Attention) else parallelism.tensor
    if same % parallelism.context:
        return [f"DCP {parallelism.context}: only {max(1, same)} of the {parallelism.tensor} ranks hold the same cache"]
    return []


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
        extra=tuple(weight.cut(parallelism.tensor) for weight in model.extra),
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
    if isinstance(mixer, CompressedAttention):
        return [
            *_indivisible(mixer.heads, "attention heads", tensor),
            *_indivisible(mixer.out_groups, "groups of heads", tensor),
        ]
    if isinstance(mixer, Attention):
        problems = _indivisible(mixer.heads, "attention heads", tensor)
        if mixer.kv_heads % tensor and tensor % mixer.kv_heads:
            problems.append(
                f"{mixer.kv_heads} KV heads can be neither divided among nor copied onto {tensor} GPUs evenly"
            )
        return problems
    return [problem for heads in mixer.heads for problem in _indivisible(heads, "heads of a recurrent layer", tensor)]


def _indivisible(count: int, what: str, tensor: int) -> list[str]:
    return [f"{count} {what} are not divisible by {tensor}"] if count % tensor else []


def _rank_layer(layer: Layer, parallelism: Parallelism, expert_step: int) -> Layer:
    tensor = parallelism.tensor
    cross = _rank_attention(layer.cross, tensor) if layer.cross else None
    block = layer.feed_forward
    return replace(
        layer,
        mixer=layer.mixer and _rank_mixer(layer.mixer, tensor),
        beside=layer.beside and _rank_recurrent(layer.beside, tensor),
        feed_forward=block and _rank_feed_forward(block, parallelism, expert_step),
        cross=cross,
        extra=tuple(weight.cut(tensor) for weight in layer.extra),
    )


def _rank_mixer(mixer: Mixer, tensor: int) -> Mixer:
    if isinstance(mixer, Attention):
        return _rank_attention(mixer, tensor)
    if isinstance(mixer, LatentAttention):
        return replace(mixer, heads=mixer.heads // tensor)
    if isinstance(mixer, CompressedAttention):
        return replace(mixer, heads=mixer.heads // tensor, out_groups=mixer.out_groups // tensor)
    return _rank_recurrent(mixer, tensor)


def _rank_recurrent(mixer: Recurrent, tensor: int) -> Recurrent:
    return replace(
        mixer,
        heads=tuple(heads // tensor for heads in mixer.heads),
        weights=tuple(weight.cut(tensor) for weight in mixer.weights),
        convolution_elements=mixer.convolution_elements // tensor,
        convolved=mixer.convolved // tensor,
        state_elements=mixer.state_elements // tensor,
    )


def _rank_attention(mixer: Attention, tensor: int) -> Attention:
    index_heads = -(-mixer.index_heads // tensor)
    return replace(
        mixer, heads=mixer.heads // tensor, kv_heads=max(1, mixer.kv_heads // tensor), index_heads=index_heads
    )


def _rank_feed_forward(block: FeedForward, parallelism: Parallelism, expert_step: int) -> FeedForward:
    tensor = parallelism.tensor
    if isinstance(block, Dense):
        return replace(block, intermediate_size=ceil(block.intermediate_size / tensor))
    shared = block.shared and replace(block.shared, intermediate_size=ceil(block.shared.intermediate_size / tensor))
    ranks = tensor * parallelism.data
    if parallelism.expert:
        count, width = ceil(block.count / ranks), block.intermediate_size
    else:
        count, width = block.count, ceil(block.intermediate_size / ranks)
    width = ceil(width / expert_step) * expert_step
    return replace(block, count=count, router_outputs=block.outputs, intermediate_size=width, shared=shared)
