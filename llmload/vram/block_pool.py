"""vLLM's paged KV cache: how many blocks, tokens and whole requests fit into a pool."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from math import ceil

from llmload.errors import ConfigError
from llmload.vram.kv_cache import KvCache, window_tokens
from llmload.vram.model import LinearAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers that share a block table in vLLM: block_tokens tokens of each of them fill one block."""

    layers: int  # real ones; a smaller group is padded to the pool's size
    window_tokens: int | None
    recurrent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPool:
    """
    vLLM's KV cache as blocks of equal bytes, shared by layer groups of equal size.

    Source: vLLM v1/core/kv_cache_utils.py, `get_kv_cache_groups` and `get_max_concurrency_for_kv_cache_config`.
    """

    groups: tuple[LayerGroup, ...]
    block_tokens: int
    block_bytes: int

    def blocks(self, pool_bytes: int) -> int:
        """How many blocks fit into a pool."""
        return pool_bytes // self.block_bytes

    def tokens(self, blocks: int) -> int:
        """The "GPU KV cache size" in tokens that vLLM logs: each group has its share of the blocks."""
        return blocks // len(self.groups) * self.block_tokens

    def blocks_per_request(self, max_model_len_tokens: int, max_num_batched_tokens: int) -> int:
        """Blocks that vLLM sets aside for one request of full length."""
        return sum(self._group_blocks(group, max_model_len_tokens, max_num_batched_tokens) for group in self.groups)

    def max_concurrency(self, blocks: int, max_model_len_tokens: int, max_num_batched_tokens: int) -> float:
        """The "Maximum concurrency" that vLLM logs: requests of full length that fit at once."""
        return blocks / self.blocks_per_request(max_model_len_tokens, max_num_batched_tokens)

    def _group_blocks(self, group: LayerGroup, length_tokens: int, batched_tokens: int) -> int:
        if group.recurrent:
            return 1
        if group.window_tokens is None:
            return ceil(length_tokens / self.block_tokens)
        # A window rarely begins at a block's edge, hence one block more.
        return ceil(min(group.window_tokens - 1 + batched_tokens, length_tokens) / self.block_tokens) + 1


def block_pool(cache: KvCache, block_tokens: int = 16) -> BlockPool:
    """
    The blocks that vLLM cuts a model's cache into; block_tokens is its --block-size.

    Raises ConfigError for encoder-decoder models and for layers of different width, which vLLM groups in other ways.
    """
    if cache.model.encoder:
        raise ConfigError(f"{cache.model.source}: vLLM's block pool is not known for encoder-decoder models")
    kinds = Counter(layer.mixer for layer in cache.model.decoder)
    widths = {cache.layer_bytes_per_token(mixer) for mixer in kinds} - {0}
    if len(widths) != 1:
        raise ConfigError(f"{cache.model.source}: layers keep {sorted(widths)} bytes a token; one width is needed")
    token_bytes = widths.pop()
    state_bytes = max(cache.layer_state_bytes(mixer) for mixer in kinds)
    # A recurrent state must fit into one block, so hybrid models get blocks of hundreds of tokens.
    block_tokens = max(block_tokens, 16 * ceil(state_bytes / (16 * token_bytes)))
    buckets: Counter[tuple[int | None, bool]] = Counter()
    for mixer, layers in kinds.items():
        buckets[window_tokens(mixer), isinstance(mixer, LinearAttention)] += layers
    size = _group_size(buckets.values())
    groups = tuple(
        LayerGroup(layers=len(range(i, layers, ceil(layers / size))), window_tokens=window, recurrent=recurrent)
        for (window, recurrent), layers in buckets.items()
        for i in range(ceil(layers / size))
    )
    return BlockPool(groups=groups, block_tokens=block_tokens, block_bytes=block_tokens * token_bytes * size)


def _group_size(layers_of_kind: Collection[int]) -> int:
    """vLLM's rule: groups as large as the smallest kind, or the largest where padding the others wastes little."""
    fewest, most = min(layers_of_kind), max(layers_of_kind)
    return most if most < 1.5 * fewest else fewest
