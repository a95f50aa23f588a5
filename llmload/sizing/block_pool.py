"""vLLM's KV cache as blocks of equal bytes that groups of layers share."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import CompressedAttention, LatentAttention, Mixer, Recurrent
from llmload.sizing.kv_cache import KvCache, compressor_bytes_per_token, index_key_bytes, window_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers that share a block table in vLLM: block_tokens tokens of each of them fill one block."""

    layers: int  # real ones; a smaller group is padded to the pool's size
    window_tokens: int | None
    block_tokens: int
    recurrent: bool = False
    states: int = 1  # blocks of state that a request takes in a recurrent group
    input_tokens: int | None = None  # of an encoder's output, whose keys and values these layers keep for each request


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


def block_pool(cache: KvCache, block_tokens: int = 16, states: int = 1, *, packed: bool = True) -> BlockPool:
    """
    Return the blocks that vLLM divides a model's cache into; block_tokens is its --block-size.

    `states` are the blocks of recurrent state that a request takes in each group of such layers; `packed` is how
    layers whose pages differ share a block since vLLM 0.26.

    Raises ConfigError for models whose encoder's output has no fixed length, models without attention, and layer widths
    that vLLM cannot combine.
    """
    source = cache.model.source
    crossing = sum(layer.cross is not None for layer in cache.model.decoder)
    if crossing:
        return _encoder_decoder_pool(cache, block_tokens, crossing)
    mixers = _keeping(cache)
    compressed = {mixer: n for mixer, n in mixers.items() if isinstance(mixer, CompressedAttention)}
    if compressed:
        return _compressed_pool(cache, compressed, packed=packed)
    widest = max((_token_bytes(cache, mixer) for mixer in mixers), default=0)
    if not widest:
        raise ConfigError(f"{source}: no layer keeps keys and values: vLLM's pool is not known for it")
    reaches = {(window_tokens(mixer), isinstance(mixer, Recurrent)) for mixer in mixers}
    if len(reaches) == 1:
        return _one_group(cache, block_tokens)
    # A recurrent state must fit into one block, so hybrid models get blocks of hundreds of tokens.
    state_bytes = max(cache.layer_state_bytes(mixer) for mixer in mixers)
    step = _latent_step(packed=packed) if any(isinstance(mixer, LatentAttention) for mixer in mixers) else 16
    block_tokens = max(block_tokens, step * ceil(state_bytes / (step * widest)))
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


def _latent_step(*, packed: bool) -> int:
    """
    Tokens that the blocks of latents beside states are a multiple of.

    Sources: vLLM platforms/interface.py; a log of 0.11 has blocks of 960 tokens (vLLM issue 28228).
    """
    return 128 if packed else 64


def _token_bytes(cache: KvCache, mixer: Mixer) -> int:
    return int(cache.layer_bytes_per_token(mixer))


def _keeping(cache: KvCache) -> Counter[Mixer]:
    """The mixers that keep anything of a sequence: those that read an earlier layer's keys and values do not."""
    return Counter(m for m in cache.model.mixers if cache.layer_bytes_per_token(m) or cache.layer_state_bytes(m))


def _one_group(cache: KvCache, block_tokens: int) -> BlockPool:
    """Layers with the same window share one table, whatever their widths."""
    mixers = _keeping(cache)
    window = window_tokens(next(iter(mixers)))
    group = LayerGroup(layers=mixers.total(), window_tokens=window, block_tokens=block_tokens)
    return BlockPool(groups=(group,), block_bytes=block_tokens * int(cache.bytes_per_token))


def _encoder_decoder_pool(cache: KvCache, block_tokens: int, crossing: int) -> BlockPool:
    """The decoder's own keys and values in one group of layers, those of the encoder's output in another."""
    model = cache.model
    own, across = cache.bytes_per_token, cache.bytes_per_input_token
    if model.input_tokens is None or own != across:
        raise ConfigError(
            f"{model.source}: vLLM's block pool is not known for encoder-decoder models whose inputs differ in length"
        )
    groups = (
        LayerGroup(layers=len(model.decoder), window_tokens=None, block_tokens=block_tokens),
        LayerGroup(layers=crossing, window_tokens=None, block_tokens=block_tokens, input_tokens=model.input_tokens),
    )
    return BlockPool(groups=groups, block_bytes=block_tokens * int(own))


def _kind(cache: KvCache, mixer: Mixer, block_tokens: int, widest: int) -> _Kind:
    """A narrower layer gets more tokens a block; where its width does not divide the widest, its page is padded."""
    token_bytes = _token_bytes(cache, mixer)
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
    if group.input_tokens is not None:
        return ceil(group.input_tokens / group.block_tokens)
    if group.window_tokens is None:
        return ceil(length_tokens / group.block_tokens)
    # A window rarely begins at a block's edge, hence one block more.
    return ceil(min(group.window_tokens - 1 + batched_tokens, length_tokens) / group.block_tokens) + 1


# Tokens of a block in DeepSeek-V4's groups, and what the bytes of a page are rounded up to.
_BEHIND_BLOCK, _WINDOW_BLOCK, _OVERLAPPING_BLOCK, _PLAIN_BLOCK = 256, 64, 4, 8
_PAGE_STEP, _FP8_PAGE_STEP = 512, 576


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Layers that vLLM may put into one group, by the bytes of their page."""

    window_tokens: int | None
    block_tokens: int
    layers_of_page: Counter[int]

    @property
    def balanced(self) -> bool:
        return len(set(self.layers_of_page.values())) == 1

    @property
    def layers(self) -> int:
        """Layers with the page that most of them have."""
        return max(self.layers_of_page.values())


def _compressed_pool(cache: KvCache, mixers: Mapping[CompressedAttention, int], *, packed: bool) -> BlockPool:
    """
    DeepSeek-V4's blocks: latents behind the windows with the indexer's keys, windows, and compressors of each kind.

    Source: vLLM models/deepseek_v4 and v1/core/kv_cache_utils.py, `_get_packed_kv_cache_groups`.
    """
    buckets = _buckets(cache, mixers)
    mixed = [each.layers for each in buckets if each.balanced and len(each.layers_of_page) > 1]
    most = _least_padded([each.layers for each in buckets if each.balanced], max(mixed)) if mixed else None
    groups, sizes = [], []
    for bucket in buckets:
        split = ceil(bucket.layers / most) if most and bucket.balanced else 1
        sizes.append(sum(page * ceil(layers / split) for page, layers in bucket.layers_of_page.items()))
        for i in range(split):
            layers = sum(len(range(i, layers, split)) for layers in bucket.layers_of_page.values())
            groups.append(
                LayerGroup(layers=layers, window_tokens=bucket.window_tokens, block_tokens=bucket.block_tokens)
            )
    if not packed:
        pages = next((each.layers_of_page for each in buckets if each.window_tokens is None), buckets[0].layers_of_page)
        sizes = [(most or 1) * sum(pages)]
    return BlockPool(groups=tuple(groups), block_bytes=max(sizes))


def _buckets(cache: KvCache, mixers: Mapping[CompressedAttention, int]) -> list[_Bucket]:
    step = _FP8_PAGE_STEP if cache.element_bytes == 1 else _PAGE_STEP
    behind: Counter[int] = Counter()
    windows: Counter[tuple[int, int]] = Counter()
    compressors: defaultdict[tuple[int, int], Counter[int]] = defaultdict(Counter)

    def page(entries: int, entry_bytes: int) -> int:
        return ceil(entries * entry_bytes / step) * step

    for mixer, layers in mixers.items():
        latent = cache.compressed_latent_bytes(mixer)
        windows[mixer.window_tokens, page(_WINDOW_BLOCK, latent)] += layers
        if not mixer.ratio:
            continue
        block = _OVERLAPPING_BLOCK if mixer.index_heads else _PLAIN_BLOCK
        own, index = compressor_bytes_per_token(mixer)
        pages = compressors[mixer.overlapping * mixer.ratio, block]
        behind[page(_BEHIND_BLOCK // mixer.ratio, latent)] += layers
        pages[page(block, own)] += layers
        if mixer.index_heads:
            behind[page(_BEHIND_BLOCK // mixer.ratio, index_key_bytes(mixer))] += layers
            pages[page(block, index)] += layers
    return [
        *([_Bucket(None, _BEHIND_BLOCK, behind)] if behind else []),
        *(_Bucket(window, _WINDOW_BLOCK, Counter({size: n})) for (window, size), n in windows.items()),
        *(_Bucket(window, block, pages) for (window, block), pages in compressors.items()),
    ]


def _least_padded(layers: Collection[int], least: int) -> int:
    """vLLM's `_approximate_gcd`: the size from `least` on that pads the fewest layers, of equal ones the larger."""
    return min(range(least, max(layers) + 1), key=lambda size: (sum(-n % size for n in layers), -size))
