"""What a model is made of, layer by layer, and how many parameters that is: counted, never read from its name."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Attention that keeps keys and values per head: MHA, GQA and MQA differ only in `kv_heads`."""

    heads: int
    kv_heads: int
    head_dim: int
    window_tokens: int | None = None  # None: attends to the whole context
    qkv_bias: bool = False
    out_bias: bool = False
    norm_elements: int = 0  # query and key norms, both together
    sinks: bool = False  # one learned logit a head
    relative_buckets: int = 0  # T5: learned distance bias, buckets x heads
    gated_output: bool = False  # the query projection also yields a gate


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention: one compressed vector a token is kept, whatever the number of heads."""

    heads: int
    q_lora_rank: int | None  # None: queries are projected straight from the hidden state
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """A gated delta rule: its memory is a state of fixed size a sequence, not a cache that grows."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A feed-forward block that every token passes through."""

    intermediate_size: int
    gated: bool = True
    bias: bool = False
    output_gate: bool = False  # Qwen: a learned scalar weighs the shared expert's answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A router and the experts it chooses from, of which `per_token` answer each token."""

    count: int
    per_token: int
    intermediate_size: int
    bias: bool = False
    router_bias: bool = False
    shared: Dense | None = None
    router_outputs: int | None = None  # None: one an expert; a rank with some of the experts has the whole router

    @property
    def outputs(self) -> int:
        """Experts the router chooses from, wherever they are held."""
        return self.count if self.router_outputs is None else self.router_outputs


Mixer = Attention | LatentAttention | LinearAttention
FeedForward = Dense | Experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One transformer layer; `cross` is the decoder's view of an encoder's output."""

    mixer: Mixer
    feed_forward: FeedForward
    cross: Attention | None = None
    norms: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The bytes of weight files by stored type, as their headers say."""

    tensor_bytes: int
    bytes_by_type: tuple[tuple[str, int], ...] = ()  # empty: an index has only the sum
    beside_language_bytes: int = 0  # towers for images and sound, and their projections


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model as far as memory depends on it; sizes in elements, positions in tokens."""

    name: str
    source: str
    model_type: str
    vocab_size: int
    hidden_size: int
    decoder: tuple[Layer, ...]
    encoder: tuple[Layer, ...] = ()
    max_position_tokens: int | None  # None: the architecture sets no limit
    rotary_dim: int  # 0: positions are not rotated
    learned_positions: int = 0
    tied_embeddings: bool
    lm_head_bias: bool = False
    norm_bias: bool = False  # layer norms carry a bias, RMS norms do not
    quantisation: str | None = None  # the method that the config declares
    weight_format: str | None = "bf16"  # a name in WEIGHT_FORMATS; None: the quantisation is unknown
    uncounted: tuple[str, ...] = ()  # parts of a multimodal config outside the language model
    checkpoint: Checkpoint | None = None  # None: no weight files were read

    @property
    def layers(self) -> Iterator[Layer]:
        """All layers, the encoder's first."""
        yield from self.encoder
        yield from self.decoder

    @property
    def final_norms(self) -> int:
        """Norms after the last layer: one a stack."""
        return 2 if self.encoder else 1


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
    kinds = Counter(model.layers)
    routed = sum(n * _routed(layer.feed_forward, hidden) for layer, n in kinds.items())
    return ParameterCounts(
        embed=(model.vocab_size + model.learned_positions) * hidden,
        attention=sum(n * _attention(layer, hidden) for layer, n in kinds.items()),
        mlp=sum(n * _dense(layer.feed_forward, hidden) for layer, n in kinds.items()),
        experts=routed,
        router=sum(n * _router(layer.feed_forward, hidden) for layer, n in kinds.items()),
        norms=norm * (sum(n * layer.norms for layer, n in kinds.items()) + model.final_norms),
        lm_head=0 if model.tied_embeddings else model.vocab_size * (hidden + model.lm_head_bias),
        idle_experts=routed - sum(n * _chosen(layer.feed_forward, hidden) for layer, n in kinds.items()),
    )


def _attention(layer: Layer, hidden: int) -> int:
    cross = _mixer(layer.cross, hidden) if layer.cross else 0
    return _mixer(layer.mixer, hidden) + cross


def _mixer(mixer: Mixer, hidden: int) -> int:
    if isinstance(mixer, Attention):
        return _head_attention(mixer, hidden)
    if isinstance(mixer, LatentAttention):
        return _latent_attention(mixer, hidden)
    return _linear_attention(mixer, hidden)


def _head_attention(mixer: Attention, hidden: int) -> int:
    inner = mixer.heads * mixer.head_dim
    projected = inner * (1 + mixer.gated_output) + 2 * mixer.kv_heads * mixer.head_dim
    weights = hidden * (projected + inner)
    biases = projected * mixer.qkv_bias + hidden * mixer.out_bias
    return weights + biases + mixer.norm_elements + mixer.heads * (mixer.sinks + mixer.relative_buckets)


def _latent_attention(mixer: LatentAttention, hidden: int) -> int:
    query_width = mixer.heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim)
    rank = mixer.q_lora_rank
    query = hidden * query_width if rank is None else rank * (hidden + query_width + 1 + mixer.bias)
    kept = mixer.kv_lora_rank + mixer.qk_rope_head_dim
    expanded = mixer.kv_lora_rank * mixer.heads * (mixer.qk_nope_head_dim + mixer.v_head_dim)
    out = mixer.heads * mixer.v_head_dim * hidden
    return query + hidden * kept + mixer.kv_lora_rank + expanded + out + mixer.bias * (kept + hidden)


def _linear_attention(mixer: LinearAttention, hidden: int) -> int:
    keys, values = mixer.key_heads * mixer.key_dim, mixer.value_heads * mixer.value_dim
    projected = 2 * keys + 2 * values + 2 * mixer.value_heads  # q, k, v, z; then beta and alpha
    convolution = (2 * keys + values) * mixer.conv_kernel
    decay = 2 * mixer.value_heads
    return hidden * projected + convolution + decay + mixer.value_dim + values * hidden


def _dense(block: FeedForward, hidden: int) -> int:
    if isinstance(block, Experts):
        return _dense(block.shared, hidden) if block.shared else 0
    weights = hidden * block.intermediate_size * (3 if block.gated else 2)
    biases = block.intermediate_size * (2 if block.gated else 1) + hidden
    return weights + biases * block.bias + hidden * block.output_gate


def _routed(block: FeedForward, hidden: int) -> int:
    return block.count * _expert(block, hidden) if isinstance(block, Experts) else 0


def _chosen(block: FeedForward, hidden: int) -> int:
    return min(block.per_token, block.count) * _expert(block, hidden) if isinstance(block, Experts) else 0


def _expert(block: Experts, hidden: int) -> int:
    return _dense(Dense(intermediate_size=block.intermediate_size, bias=block.bias), hidden)


def _router(block: FeedForward, hidden: int) -> int:
    return block.outputs * (hidden + block.router_bias) if isinstance(block, Experts) else 0
