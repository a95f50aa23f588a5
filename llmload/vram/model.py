"""A language model as the parts that cost memory: what each layer mixes tokens with, and what it feeds forward."""

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
    router_outputs: int | None = None  # None: one an expert; a rank with a share of the experts has the whole router

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
    """What the headers of weight files say: bytes by stored type, all tensors and those outside the language model."""

    tensor_bytes: int
    bytes_by_type: tuple[tuple[str, int], ...] = ()  # empty: an index tells the sum alone
    beside_language_bytes: int = 0  # towers for images and sound, and what joins them to the language model


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a model is made of, as far as memory depends on it; sizes in elements, positions in tokens."""

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
    quantisation: str | None = None  # as the config declares it
    weight_format: str | None = "bf16"  # what that is in WEIGHT_FORMATS; None: a quantisation that is not known
    uncounted: tuple[str, ...] = ()  # parts of a multimodal config outside the language model
    checkpoint: Checkpoint | None = None  # None: no weight files were looked at

    @property
    def layers(self) -> Iterator[Layer]:
        """All layers, the encoder's first."""
        yield from self.encoder
        yield from self.decoder

    @property
    def final_norms(self) -> int:
        """Norms after the last layer: one a stack."""
        return 2 if self.encoder else 1
