"""The KV cache: bytes of a token and of a sequence, and how many blocks and requests fit into vLLM's paged pool."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import Attention, LatentAttention, LinearAttention, Mixer, ModelSpec

KV_ELEMENT_BYTES: Mapping[str, int] = {"bf16": 2, "fp16": 2, "fp8": 1, "fp32": 4}
_STATE_ELEMENT_BYTES = 2  # recurrent states stay in the model's 16 bits when the KV cache is stored in fewer


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

    def layer_bytes_per_token(self, mixer: Mixer) -> int:
        """Return the bytes that one token adds to one layer; 0 for a layer whose memory does not grow."""
        if isinstance(mixer, Attention):
            return 2 * self._kv_heads(mixer) * mixer.head_dim * self.element_bytes
        if isinstance(mixer, LatentAttention):
            return (mixer.kv_lora_rank + mixer.qk_rope_head_dim) * self.element_bytes
        return 0

    def layer_state_bytes(self, mixer: Mixer) -> int:
        """Return the bytes of recurrent state that one layer keeps for a sequence; 0 for attention."""
        if not isinstance(mixer, LinearAttention):
            return 0
        keys, values = mixer.key_heads * mixer.key_dim, mixer.value_heads * mixer.value_dim
        convolution = (mixer.conv_kernel - 1) * (2 * keys + values)
        return (convolution + values * mixer.key_dim) // self.tensor_parallel * _STATE_ELEMENT_BYTES

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token adds before any sliding window is full."""
        return sum(self.layer_bytes_per_token(layer.mixer) for layer in self.model.decoder)

    @property
    def bytes_per_token_beyond_windows(self) -> int:
        """Bytes that one more token adds once every sliding window is full."""
        return sum(self.layer_bytes_per_token(x.mixer) for x in self.model.decoder if window_tokens(x.mixer) is None)

    @property
    def bytes_per_input_token(self) -> int:
        """Bytes that one token of an encoder's input adds to the decoder's cross-attention; 0 without an encoder."""
        return sum(self.layer_bytes_per_token(layer.cross) for layer in self.model.decoder if layer.cross)

    @property
    def state_bytes(self) -> int:
        """Bytes of recurrent state of a sequence of any length."""
        return sum(self.layer_state_bytes(layer.mixer) for layer in self.model.decoder)

    def sequence_bytes(self, context_tokens: int, input_tokens: int = 0) -> int:
        """Return the bytes of one sequence, without rounding to blocks; input_tokens are the encoder's."""
        grown = sum(
            self.layer_bytes_per_token(layer.mixer) * min(context_tokens, window_tokens(layer.mixer) or context_tokens)
            for layer in self.model.decoder
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


def block_pool(cache: KvCache, block_tokens: int = 16) -> BlockPool:
    """
    Return the blocks that vLLM divides a model's cache into; block_tokens is its --block-size.

    Raises ConfigError for encoder-decoder models, models without attention, and layer widths that vLLM cannot combine.
    """
    source = cache.model.source
    if cache.model.encoder:
        raise ConfigError(f"{source}: vLLM's block pool is not known for encoder-decoder models")
    mixers = Counter(layer.mixer for layer in cache.model.decoder)
    widest = max(cache.layer_bytes_per_token(mixer) for mixer in mixers)
    if not widest:
        raise ConfigError(f"{source}: no layer keeps keys and values: vLLM's pool is not known for it")
    reaches = {(window_tokens(mixer), isinstance(mixer, LinearAttention)) for mixer in mixers}
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
            block_tokens=kind.block_tokens,
        )
        for kind, layers in kinds.items()
        for i in range(ceil(layers / size))
    )
    return BlockPool(groups=groups, block_bytes=block_tokens * widest * size)


def _one_group(cache: KvCache, block_tokens: int) -> BlockPool:
    """Layers with the same window share one table, whatever their widths."""
    layers = cache.model.decoder
    group = LayerGroup(layers=len(layers), window_tokens=window_tokens(layers[0].mixer), block_tokens=block_tokens)
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
        return 1
    if group.window_tokens is None:
        return ceil(length_tokens / group.block_tokens)
    # A window rarely begins at a block's edge, hence one block more.
    return ceil(min(group.window_tokens - 1 + batched_tokens, length_tokens) / group.block_tokens) + 1
