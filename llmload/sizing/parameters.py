"""How many parameters a model has, and where they sit: counted, never read from its name."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
    Part,
    Weight,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Parameters by where they sit; the unit is one parameter, whatever its precision."""

    embed: int  # input embedding and learned positions
    attention: int  # with its biases and query and key norms
    mlp: int  # dense blocks and shared experts
    experts: int  # routed experts
    router: int
    norms: int
    lm_head: int  # 0 where the output is tied to the input embedding
    idle_experts: int  # routed experts that one token does not pass through

    @property
    def parts(self) -> Mapping[Part, int]:
        """Parameters by part; their sum is the total."""
        return {
            "embed": self.embed,
            "attention": self.attention,
            "mlp": self.mlp,
            "experts": self.experts,
            "router": self.router,
            "norms": self.norms,
            "lm_head": self.lm_head,
        }

    @property
    def layers(self) -> int:
        """Everything between the embedding and the head, final norms included."""
        return self.attention + self.mlp + self.experts + self.router + self.norms

    @property
    def backbone(self) -> int:
        """What Transformers' AutoModel loads: all but the language-model head."""
        return self.embed + self.layers

    @property
    def total(self) -> int:
        """All parameters, tied ones once."""
        return self.backbone + self.lm_head

    @property
    def active(self) -> int:
        """Parameters that one token passes through: the total less the experts that are not chosen for it."""
        return self.total - self.idle_experts

    @property
    def read_per_token(self) -> int:
        """Parameters read to decode one token at batch 1: an untied input embedding gives one row, not the table."""
        return self.active - self.embed if self.lm_head else self.active


def count_parameters(model: ModelSpec) -> ParameterCounts:
    """
    Count the parameters of a model, exactly for every architecture that `model_from_config` accepts.

    Source: the weight shapes of each architecture's Transformers implementation.
    """
    hidden = model.hidden_size
    norm = hidden * (1 + model.norm_bias)
    parts: Counter[Part] = Counter()
    for weight in model.extra:
        parts[weight.part] += weight.elements
    idle = 0
    kinds = Counter(model.layers)
    for layer, layers in kinds.items():
        for weight in layer_weights(layer, hidden):
            parts[weight.part] += layers * weight.elements
        idle += layers * _idle(layer.feed_forward, hidden)
    return ParameterCounts(
        embed=(model.vocab_size + model.learned_positions) * hidden + parts["embed"],
        attention=parts["attention"],
        mlp=parts["mlp"],
        experts=parts["experts"],
        router=parts["router"],
        norms=norm * (sum(n * layer.norms for layer, n in kinds.items()) + model.final_norms) + parts["norms"],
        lm_head=model.vocab_size * (hidden * (not model.tied_embeddings) + model.lm_head_bias),
        idle_experts=idle,
    )


def layer_weights(layer: Layer, hidden: int) -> Iterator[Weight]:
    """Yield a layer's weights but for its norms as wide as the hidden state, in checkpoints' usual names."""
    for mixer in layer.mixers:
        yield from _mixer(mixer, hidden, "self_attn")
    if layer.cross:
        yield from _mixer(layer.cross, hidden, "cross_attn")
    if isinstance(layer.feed_forward, Dense):
        yield from _dense(layer.feed_forward, hidden, "mlp")
    elif layer.feed_forward:
        yield from _experts(layer.feed_forward, hidden)
    yield from layer.extra


def _mixer(mixer: Mixer, hidden: int, name: str) -> Iterator[Weight]:
    if isinstance(mixer, Attention):
        return _head_attention(mixer, hidden, name)
    if isinstance(mixer, LatentAttention):
        return _latent_attention(mixer, hidden, name)
    if isinstance(mixer, CompressedAttention):
        return _compressed_attention(mixer, hidden, name)
    return iter(mixer.weights)


def _matrix(name: str, part: Part, rows: int, columns: int) -> Weight:
    return Weight(name=name, part=part, elements=rows * columns, columns=columns)


def _vectors(name: str, part: Part, elements: int) -> Weight:
    return Weight(name=f"{name}.vectors", part=part, elements=elements)


def _head_attention(mixer: Attention, hidden: int, name: str) -> Iterator[Weight]:
    if mixer.borrows_weights:
        return
    query = mixer.heads * mixer.head_dim * (1 + mixer.gated_output)
    key, value = mixer.kv_heads * mixer.head_dim, mixer.kv_heads * mixer.value_dim
    value = 0 if mixer.key_is_value else value
    if mixer.shares_cache:
        key = value = 0
    out = mixer.heads * mixer.value_dim
    yield _matrix(f"{name}.q_proj", "attention", query, hidden)
    yield _matrix(f"{name}.k_proj", "attention", key, hidden)
    yield _matrix(f"{name}.v_proj", "attention", value, hidden)
    yield _matrix(f"{name}.o_proj", "attention", hidden, out)
    if mixer.index_heads:
        yield _matrix(f"{name}.index_q_proj", "attention", mixer.index_heads * mixer.index_head_dim, hidden)
        yield _matrix(f"{name}.index_k_proj", "attention", mixer.index_head_dim, hidden)
        yield _vectors(f"{name}.index", "attention", 2 * mixer.index_head_dim)
    biases = (query + key + value) * mixer.qkv_bias + hidden * mixer.out_bias
    by_head = mixer.heads * (mixer.sinks + mixer.relative_buckets)
    yield _vectors(name, "attention", biases + mixer.norm_elements + by_head)


def _latent_attention(mixer: LatentAttention, hidden: int, name: str) -> Iterator[Weight]:
    query_width = mixer.heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim)
    rank = mixer.q_lora_rank
    kept = mixer.kv_lora_rank + mixer.qk_rope_head_dim
    if rank is None:
        yield _matrix(f"{name}.q_proj", "attention", query_width, hidden)
    else:
        yield _matrix(f"{name}.q_a_proj", "attention", rank, hidden)
        yield _matrix(f"{name}.q_b_proj", "attention", query_width, rank)
    expanded = mixer.heads * (mixer.qk_nope_head_dim + mixer.v_head_dim)
    yield _matrix(f"{name}.kv_a_proj_with_mqa", "attention", kept, hidden)
    yield _matrix(f"{name}.kv_b_proj", "attention", expanded, mixer.kv_lora_rank)
    yield _matrix(f"{name}.o_proj", "attention", hidden, mixer.heads * mixer.v_head_dim)
    if mixer.gated_output:
        yield _matrix(f"{name}.g_proj", "attention", mixer.heads * mixer.v_head_dim, hidden)
    norms = mixer.kv_lora_rank + (rank or 0)
    biases = mixer.bias * (kept + hidden + (rank or 0))
    yield _vectors(name, "attention", norms + biases)
    if mixer.index_heads:
        yield from _indexer(mixer, hidden, f"{name}.indexer")


def _indexer(mixer: LatentAttention, hidden: int, name: str) -> Iterator[Weight]:
    """DeepSeek's lightning indexer; the norm of its keys has a bias."""
    width = mixer.index_heads * mixer.index_head_dim
    yield _matrix(f"{name}.wq_b", "attention", width, mixer.q_lora_rank or hidden)
    yield _matrix(f"{name}.wk", "attention", mixer.index_head_dim, hidden)
    yield _matrix(f"{name}.weights_proj", "attention", mixer.index_heads, hidden)
    yield _vectors(name, "attention", 2 * mixer.index_head_dim)


def _compressed_attention(mixer: CompressedAttention, hidden: int, name: str) -> Iterator[Weight]:
    """DeepSeek-V4's: heads share each latent, groups of heads their output's first projection."""
    width, rank = mixer.heads * mixer.head_dim, mixer.q_lora_rank
    joined = mixer.out_groups * mixer.out_lora_rank
    yield _matrix(f"{name}.q_a_proj", "attention", rank, hidden)
    yield _matrix(f"{name}.q_b_proj", "attention", width, rank)
    yield _matrix(f"{name}.kv_proj", "attention", mixer.head_dim, hidden)
    yield _matrix(f"{name}.o_a_proj", "attention", joined, width // mixer.out_groups)
    yield _matrix(f"{name}.o_b_proj", "attention", hidden, joined)
    yield _vectors(name, "attention", rank + mixer.head_dim + mixer.heads)  # two norms, and a sink a head
    if mixer.ratio:
        yield _compressor(mixer, mixer.head_dim, hidden, f"{name}.compressor")
    if mixer.index_heads:
        yield _matrix(f"{name}.indexer.q_b_proj", "attention", mixer.index_heads * mixer.index_head_dim, rank)
        yield Weight(name=f"{name}.indexer.weights_proj", part="attention", elements=mixer.index_heads * hidden)
        yield _compressor(mixer, mixer.index_head_dim, hidden, f"{name}.indexer.compressor")


def _compressor(mixer: CompressedAttention, dim: int, hidden: int, name: str) -> Weight:
    """Keys and gates of each token, a bias for each place in a latent, a norm: no format narrows them."""
    return Weight(name=name, part="attention", elements=mixer.overlapping * dim * (2 * hidden + mixer.ratio) + dim)


def _dense(block: Dense, hidden: int, name: str) -> Iterator[Weight]:
    width = block.intermediate_size
    if block.gated:
        yield _matrix(f"{name}.gate_proj", "mlp", width, hidden)
    yield _matrix(f"{name}.up_proj", "mlp", width, hidden)
    yield _matrix(f"{name}.down_proj", "mlp", hidden, width)
    biases = (width * (1 + block.gated) + hidden) * block.bias
    yield _vectors(name, "mlp", biases + hidden * block.output_gate)


def _experts(block: Experts, hidden: int) -> Iterator[Weight]:
    width, seen = block.intermediate_size, block.latent_size or hidden
    if block.gated:
        yield _matrix("mlp.experts.0.gate_proj", "experts", block.count * width, seen)
    yield _matrix("mlp.experts.0.up_proj", "experts", block.count * width, seen)
    yield _matrix("mlp.experts.0.down_proj", "experts", block.count * seen, width)
    biases = width * (1 + block.gated) + seen
    yield _vectors("mlp.experts", "experts", block.count * biases * block.bias)
    yield Weight(name="mlp.gate", part="router", elements=block.outputs * (hidden + block.router_bias))
    if block.latent_size:
        yield _matrix("mlp.fc1_latent_proj", "mlp", seen, hidden)
        yield _matrix("mlp.fc2_latent_proj", "mlp", hidden, seen)
    if block.shared:
        yield from _dense(block.shared, hidden, "mlp.shared_experts")


def _idle(block: FeedForward | None, hidden: int) -> int:
    """Parameters of the experts that one token does not pass through."""
    if not isinstance(block, Experts):
        return 0
    chosen = min(block.per_token, block.count)
    return sum(
        w.elements // block.count * (block.count - chosen) for w in _experts(block, hidden) if w.part == "experts"
    )
