"""What weights and KV cache take on each GPU: formats, sharding, blocks and pools."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
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
    Part,
    Recurrent,
    count_parameters,
    layer_weights,
)
from llmload.sizing.gguf_mix import MIXES, mix_bits

# The bytes of a model's weights by format, and the part of them that one rank of a parallel deployment holds.


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


KV_ELEMENT_BYTES: Mapping[str, int] = {"bf16": 2, "fp16": 2, "fp8": 1, "fp32": 4}


def default_kv_dtype(model: ModelSpec) -> str:
    """Return the KV cache's type that a model's checkpoint declares, else bf16; ConfigError for one that is unknown."""
    declared = model.kv_dtype or "bf16"
    if declared not in KV_ELEMENT_BYTES:
        raise ConfigError(f"{model.source}: declares a KV cache of {declared!r}, which is not known: give --kv-dtype")
    return declared


_CONVOLUTION_ELEMENT_BYTES = 2  # states stay in the model's 16 bits when the KV cache is stored in fewer
_SPARSE_FP8_LATENT_BYTES = 656  # vLLM's fp8_ds_mla: 512 in 8 bits, four 32-bit scales, 64 rotated in 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """
    The cache of one model on one GPU of a tensor-parallel group, element_bytes wide.

    Sources: 2 x kv_heads x head_dim a layer (Shazeer 2019; Ainslie et al. 2023), kv_lora_rank + qk_rope_head_dim a
    layer, the same on every GPU, for latent attention (DeepSeek-V2, arXiv 2405.04434).
    """

    model: ModelSpec
    element_bytes: int = 2
    tensor_parallel: int = 1
    draft_tokens: int = 0  # which convolutions keep beside their own inputs

    def layer_bytes_per_token(self, mixer: Mixer) -> int:
        """Return the bytes that one token adds to one layer; 0 for a layer whose memory does not grow."""
        if isinstance(mixer, Attention):
            kept = self._kv_heads(mixer) * (mixer.head_dim + mixer.value_dim) * self.element_bytes
            index = mixer.index_head_dim * self.element_bytes  # the same on every GPU
            return 0 if mixer.shares_cache else kept + index
        if isinstance(mixer, LatentAttention):
            latent = (mixer.kv_lora_rank + mixer.qk_rope_head_dim) * self.element_bytes
            if not mixer.index_heads:
                return latent
            # The indexer's keys: 8 bits each, and a 32-bit scale for each 128.
            index = mixer.index_head_dim + 4 * ceil(mixer.index_head_dim / 128)
            return index + (_SPARSE_FP8_LATENT_BYTES if self.element_bytes == 1 else latent)
        return 0

    def layer_state_bytes(self, mixer: Mixer) -> int:
        """Return the bytes of recurrent state that one layer keeps for a sequence; 0 for attention."""
        if not isinstance(mixer, Recurrent):
            return 0
        inputs = mixer.convolution_elements + self.draft_tokens * mixer.convolved
        convolution = inputs // self.tensor_parallel * _CONVOLUTION_ELEMENT_BYTES
        return convolution + mixer.state_elements // self.tensor_parallel * mixer.state_element_bytes

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token adds before any sliding window is full."""
        return sum(self.layer_bytes_per_token(mixer) for mixer in self.model.mixers)

    @property
    def bytes_per_token_beyond_windows(self) -> int:
        """Bytes that one more token adds once every sliding window is full."""
        return sum(self.layer_bytes_per_token(each) for each in self.model.mixers if window_tokens(each) is None)

    @property
    def bytes_per_input_token(self) -> int:
        """Bytes that one token of an encoder's input adds to the decoder's cross-attention; 0 without an encoder."""
        return sum(self.layer_bytes_per_token(layer.cross) for layer in self.model.decoder if layer.cross)

    @property
    def state_elements(self) -> int:
        """Elements of recurrent state of a sequence of any length, whatever their width."""
        states = (mixer for mixer in self.model.mixers if isinstance(mixer, Recurrent))
        return sum(each.convolution_elements + each.state_elements for each in states) // self.tensor_parallel

    @property
    def state_bytes(self) -> int:
        """Bytes of recurrent state of a sequence of any length."""
        return sum(self.layer_state_bytes(mixer) for mixer in self.model.mixers)

    def sequence_bytes(self, context_tokens: int, input_tokens: int = 0) -> int:
        """Return the bytes of one sequence, without rounding to blocks; input_tokens are the encoder's."""
        grown = sum(
            self.layer_bytes_per_token(mixer) * min(context_tokens, window_tokens(mixer) or context_tokens)
            for mixer in self.model.mixers
        )
        return grown + self.bytes_per_input_token * input_tokens + self.state_bytes

    def _kv_heads(self, mixer: Attention) -> int:
        """Key heads on one GPU: with fewer heads than GPUs, each GPU has a copy of one."""
        return max(1, mixer.kv_heads // self.tensor_parallel)


def window_tokens(mixer: Mixer) -> int | None:
    """Return the sliding window of a layer in tokens, None where it keeps the whole context."""
    return mixer.window_tokens if isinstance(mixer, Attention) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers that share a block table in vLLM: block_tokens tokens of each of them fill one block."""

    layers: int  # real ones; a smaller group is padded to the pool's size
    window_tokens: int | None
    block_tokens: int
    recurrent: bool = False
    states: int = 1  # blocks of state that a request takes in a recurrent group


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPool:
    """
    vLLM's KV cache as blocks of equal bytes, shared by layer groups of equal size.

    Source: vLLM v1/core/kv_cache_utils.py, `get_kv_cache_groups` and `get_max_concurrency_for_kv_cache_config`.
    """

    groups: tuple[LayerGroup, ...]
    block_bytes: int

    @property
    def block_tokens(self) -> int:
        """Tokens of a block, in the group with the fewest."""
        return min(group.block_tokens for group in self.groups)

    def blocks(self, pool_bytes: int) -> int:
        """Return how many blocks fit into a pool."""
        return pool_bytes // self.block_bytes

    def tokens(self, blocks: int) -> int:
        """Return the "GPU KV cache size" in tokens that vLLM logs: blocks are divided among the groups."""
        return blocks // len(self.groups) * self.block_tokens

    def blocks_per_request(self, max_model_len_tokens: int, max_num_batched_tokens: int) -> int:
        """Return the blocks that vLLM reserves for one request of full length."""
        return sum(_group_blocks(group, max_model_len_tokens, max_num_batched_tokens) for group in self.groups)

    def divided(self, ranks: int) -> "BlockPool":
        """Return the pool of one of several ranks that divide the tokens of a context: DCP."""
        groups = tuple(replace(group, block_tokens=group.block_tokens * ranks) for group in self.groups)
        return replace(self, groups=groups)

    def max_concurrency(self, blocks: int, max_model_len_tokens: int, max_num_batched_tokens: int) -> float:
        """Return the "Maximum concurrency" that vLLM logs: requests of full length that fit at once."""
        return blocks / self.blocks_per_request(max_model_len_tokens, max_num_batched_tokens)


@dataclass(frozen=True, slots=True)
class _Kind:
    """vLLM's "spec": layers of the same width, window and tokens of a block."""

    token_bytes: int
    window_tokens: int | None
    recurrent: bool
    block_tokens: int


def block_pool(cache: KvCache, block_tokens: int = 16, states: int = 1) -> BlockPool:
    """
    Return the blocks that vLLM divides a model's cache into; block_tokens is its --block-size.

    `states` are the blocks of recurrent state that a request takes in each group of such layers.

    Raises ConfigError for encoder-decoder models, models without attention, and layer widths that vLLM cannot combine.
    """
    source = cache.model.source
    if cache.model.encoder:
        raise ConfigError(f"{source}: vLLM's block pool is not known for encoder-decoder models")
    mixers = _keeping(cache)
    widest = max((cache.layer_bytes_per_token(mixer) for mixer in mixers), default=0)
    if not widest:
        raise ConfigError(f"{source}: no layer keeps keys and values: vLLM's pool is not known for it")
    reaches = {(window_tokens(mixer), isinstance(mixer, Recurrent)) for mixer in mixers}
    if len(reaches) == 1:
        return _one_group(cache, block_tokens)
    # A recurrent state must fit into one block, so hybrid models get blocks of hundreds of tokens.
    state_bytes = max(cache.layer_state_bytes(mixer) for mixer in mixers)
    block_tokens = max(block_tokens, 16 * ceil(state_bytes / (16 * widest)))
    kinds: Counter[_Kind] = Counter()
    for mixer, layers in mixers.items():
        kinds[_kind(cache, mixer, block_tokens, widest)] += layers
    size = _group_size(kinds.values())
    groups = tuple(
        LayerGroup(
            layers=len(range(i, layers, ceil(layers / size))),
            window_tokens=kind.window_tokens,
            recurrent=kind.recurrent,
            states=states,
            block_tokens=kind.block_tokens,
        )
        for kind, layers in kinds.items()
        for i in range(ceil(layers / size))
    )
    return BlockPool(groups=groups, block_bytes=block_tokens * widest * size)


def _keeping(cache: KvCache) -> Counter[Mixer]:
    """The mixers that keep anything of a sequence: those that read an earlier layer's keys and values do not."""
    return Counter(m for m in cache.model.mixers if cache.layer_bytes_per_token(m) or cache.layer_state_bytes(m))


def _one_group(cache: KvCache, block_tokens: int) -> BlockPool:
    """Layers with the same window share one table, whatever their widths."""
    mixers = _keeping(cache)
    window = window_tokens(next(iter(mixers)))
    group = LayerGroup(layers=mixers.total(), window_tokens=window, block_tokens=block_tokens)
    return BlockPool(groups=(group,), block_bytes=block_tokens * cache.bytes_per_token)


def _kind(cache: KvCache, mixer: Mixer, block_tokens: int, widest: int) -> _Kind:
    """A narrower layer gets more tokens a block; where its width does not divide the widest, its page is padded."""
    token_bytes = cache.layer_bytes_per_token(mixer)
    if not token_bytes:
        return _Kind(0, None, recurrent=True, block_tokens=block_tokens)
    if widest % token_bytes == 0:
        block_tokens *= widest // token_bytes
    elif isinstance(mixer, LatentAttention):
        raise ConfigError(
            f"{cache.model.source}: {token_bytes} bytes a token of latent attention do not divide {widest}; "
            f"vLLM's block pool is not known for that"
        )
    return _Kind(token_bytes, window_tokens(mixer), recurrent=False, block_tokens=block_tokens)


def _group_size(layers_of_kind: Collection[int]) -> int:
    """vLLM's rule: groups as large as the smallest kind, or the largest where padding the others wastes little."""
    fewest, most = min(layers_of_kind), max(layers_of_kind)
    return most if most < 1.5 * fewest else fewest


def _group_blocks(group: LayerGroup, length_tokens: int, batched_tokens: int) -> int:
    if group.recurrent:
        return group.states
    if group.window_tokens is None:
        return ceil(length_tokens / group.block_tokens)
    # A window rarely begins at a block's edge, hence one block more.
    return ceil(min(group.window_tokens - 1 + batched_tokens, length_tokens) / group.block_tokens) + 1
