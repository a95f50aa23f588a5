"""vLLM's KV cache as blocks of equal bytes that groups of layers share."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import LatentAttention, Mixer, Recurrent
from llmload.sizing.kv_cache import KvCache, window_tokens


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
