"""What a model is made of, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Part = Literal["embed", "attention", "mlp", "experts", "router", "norms", "lm_head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One weight of a layer, named within the layer as checkpoints name it; only matrices are stored in fewer bits."""

    name: str
    part: Part
    elements: int
    columns: int = 0  # inputs of a matrix; 0: a vector, or a matrix that no format narrows
    whole: bool = False  # every tensor rank has all of it

    def cut(self, tensor: int) -> "Weight":
        """Return what one of `tensor` ranks has of it."""
        return self if self.whole else replace(self, elements=-(-self.elements // tensor))


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
    v_head_dim: int | None = None  # None: values are as wide as keys
    shares_cache: bool = False  # reads the keys and values of an earlier layer and keeps none
    key_is_value: bool = False  # one projection gives both, which are both kept
    borrows_weights: bool = False  # its projections are counted elsewhere: several layers share them
    index_heads: int = 0  # of an indexer, which chooses the blocks that are attended to and keeps one key a token
    index_head_dim: int = 0

    @property
    def value_dim(self) -> int:
        """The width of a value head."""
        return self.head_dim if self.v_head_dim is None else self.v_head_dim


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
    gated_output: bool = False  # a projection as wide as the output weighs it
    index_heads: int = 0  # of a lightning indexer, which chooses the tokens that are attended to
    index_head_dim: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedAttention:
    """
    Attention to a window of latents and, behind it, to one latent for each `ratio` tokens; 0: to the window alone.

    Each latent is key and value of all heads. A compressor keeps 32-bit sums of the tokens it has not closed yet.
    """

    heads: int
    head_dim: int  # of a latent, of which rope_head_dim are rotated
    rope_head_dim: int
    q_lora_rank: int
    out_groups: int
    out_lora_rank: int  # of each group
    window_tokens: int
    ratio: int
    index_heads: int = 0  # of an indexer, which chooses the latents behind the window and keeps one key for each
    index_head_dim: int = 0

    @property
    def overlapping(self) -> int:
        """How many latents behind the window each token goes into: two where an indexer chooses among them."""
        return 2 if self.index_heads else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """A mixer whose memory is a state of fixed size a sequence: a gated delta rule, Mamba, a short convolution."""

    heads: tuple[int, ...]  # every count that tensor ranks divide among them
    weights: tuple[Weight, ...]
    convolution_elements: int  # of the state, in the cache's 16 bits
    convolved: int  # channels of the convolution: elements that one more token adds to its state
    state_elements: int
    state_element_bytes: int = 2


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
    gated: bool = True
    latent_size: int | None = None  # Nemotron 3: experts see a projection of the hidden state this wide

    @property
    def outputs(self) -> int:
        """Experts the router chooses from, wherever they are held."""
        return self.count if self.router_outputs is None else self.router_outputs


Mixer = Attention | LatentAttention | CompressedAttention | Recurrent
FeedForward = Dense | Experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer; `cross` is the decoder's view of an encoder's output. Hybrids have layers without one of its parts."""

    mixer: Mixer | None
    feed_forward: FeedForward | None
    cross: Attention | None = None
    beside: Recurrent | None = None  # runs side by side with the mixer
    norms: int = 2
    extra: tuple[Weight, ...] = ()  # what only this family has
    stored_bits: tuple[tuple[str, float], ...] = ()  # of weights that a checkpoint stores narrower than 16 bits

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """What mixes tokens in this layer."""
        return tuple(each for each in (self.mixer, self.beside) if each is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The bytes of weight files by stored type, as their headers say."""

    tensor_bytes: int
    bytes_by_type: tuple[tuple[str, int], ...] = ()  # empty: an index has only the sum
    beside_language_bytes: int = 0  # towers for images and sound, and their projections
    draft_bytes: int = 0  # layers that only propose tokens, which engines load when asked to
    part_bytes: tuple[tuple[Part, int], ...] = ()  # the language model's by part; empty where a name is not known

    @property
    def language_bytes(self) -> int:
        """Bytes of the language model alone."""
        return self.tensor_bytes - self.beside_language_bytes - self.draft_bytes


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
    unread: str | None = None  # why it is unknown
    stored_bits: tuple[tuple[str, float], ...] = ()  # of "embed" and "lm_head", where these are narrow
    kv_dtype: str | None = None  # the KV cache's type that the checkpoint declares
    extra: tuple[Weight, ...] = ()  # outside the layers
    image_tower: int = 0  # parameters of a tower for images and its projector
    image_states: int = 1  # hidden states that a token of an image has: some towers give later layers others
    input_tokens: int | None = None  # of the encoder's output, where each input is as long
    uncounted: tuple[str, ...] = ()  # other parts of a multimodal config outside the language model
    checkpoint: Checkpoint | None = None  # None: no weight files were read

    @property
    def layers(self) -> Iterator[Layer]:
        """All layers, the encoder's first."""
        yield from self.encoder
        yield from self.decoder

    @property
    def mixers(self) -> Iterator[Mixer]:
        """What mixes tokens in the decoder, a layer's together."""
        for layer in self.decoder:
            yield from layer.mixers

    @property
    def final_norms(self) -> int:
        """Norms after the last layer: one a stack."""
        return 2 if self.encoder else 1
