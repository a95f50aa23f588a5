"""How many requests an engine's cache holds: vLLM's blocks, SGLang's tokens and states, llama.cpp's slots."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Final, Protocol

from llmload.errors import ConfigError
from llmload.sizing.architecture import CompressedAttention, Mixer
from llmload.sizing.block_pool import BlockPool, block_pool
from llmload.sizing.engines import Engine
from llmload.sizing.kv_cache import KvCache, window_tokens
from llmload.sizing.parallelism import ONE_GPU, Parallelism

# vLLM plans one step while another runs, and keeps what both may need (its pull request 47728).
STEPS_OVERLAP_SINCE: Final = (0, 26)


class RequestPool(Protocol):
    """The cache of one GPU, as its engine divides it."""

    def requests(self, pool_bytes: float, context_tokens: int) -> float:
        """Return how many requests of that context a pool holds at once; 0 for a negative pool."""


def longest_request(pool: RequestPool, pool_bytes: float, limit_tokens: int) -> int:
    """Return the tokens of the longest single request that a pool holds, at most the limit, by bisection."""
    shortest, longest = 0, limit_tokens
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if pool.requests(pool_bytes, middle) >= 1:
            shortest = middle
        else:
            longest = middle - 1
    return shortest


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmPool:
    """Blocks of equal bytes that layer groups share."""

    blocks: BlockPool
    in_flight_tokens: int  # scheduled and not yet settled, for which windows keep blocks

    def requests(self, pool_bytes: float, context_tokens: int) -> float:
        """Return the "Maximum concurrency" that vLLM logs."""
        blocks = self.blocks.blocks(max(0, int(pool_bytes)))
        return self.blocks.max_concurrency(blocks, context_tokens, self.in_flight_tokens)

    def in_flight_share(self, context_tokens: int) -> float:
        """Return the fraction of a request's blocks that vLLM reserves for tokens in flight alone."""
        held = self.blocks.blocks_per_request(context_tokens, 0)
        return 1 - held / self.blocks.blocks_per_request(context_tokens, self.in_flight_tokens)


# SGLang 0.5: a pool for windows with 0.8 of the other one's tokens (swa_full_tokens_ratio); 0.9 / 1.9 of what the
# weights leave are states (mamba_full_memory_ratio), of which a request takes 3 or, with its buffers, 5.
_WINDOW_SHARE: Final = 0.8
_STATE_SHARE: Final = 0.9 / 1.9
_STATES_A_REQUEST: Final = 5
_WINDOWS_SINCE: Final = (0, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangPool:
    """
    Single tokens of every layer, and states of recurrent layers beside them.

    Source: SGLang model_executor/pool_configurator.py and model_runner_kv_cache_mixin.py.
    """

    token_bytes: float
    state_bytes: int  # of one sequence; 0: no layer is recurrent

    def tokens(self, pool_bytes: float) -> int:
        """Return the "max_total_num_tokens" that SGLang logs."""
        share = 1 - _STATE_SHARE if self.state_bytes else 1.0
        return int(max(0.0, pool_bytes) * share / self.token_bytes)

    def requests(self, pool_bytes: float, context_tokens: int) -> float:
        """Return how many requests have both their tokens and their states."""
        states = inf
        if self.state_bytes:
            states = max(0.0, pool_bytes) * _STATE_SHARE // self.state_bytes / _STATES_A_REQUEST
        return min(self.tokens(pool_bytes) / context_tokens, states)


# Bytes of one element of llama.cpp's cache types, the scales of quantised ones included: ggml's blocks of 32.
CACHE_TYPE_BYTES: Final[Mapping[str, float]] = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
}
_CELLS: Final = 256  # llama.cpp pads a cache to a multiple of this
_DRAFT_ELEMENT_BYTES: Final = 2  # --cache-type-k-draft, whatever the model's own type
_STATE_ELEMENT_BYTES: Final = 4  # states and convolutions are 32 bits wide whatever the cache's type


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppPool:
    """
    One piece of cache a slot, allocated whole at the start; windows have cells for a step beyond them.

    With --kv-unified slots share one piece, and windows one step. A drafter is the cache's last layer, in its own 16
    bits, and for each token that it drafts a slot keeps one more recurrent state.

    Source: llama.cpp src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp; without --swa-full.
    """

    cache: KvCache  # of one byte an element
    element_bytes: float
    max_num_batched_tokens: int
    unified: bool = False
    draft_tokens: int = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of recurrent states of one slot."""
        return self.cache.state_elements * _STATE_ELEMENT_BYTES * (1 + self.draft_tokens)

    @property
    def shared_bytes(self) -> float:
        """Bytes that slots with one piece of cache have together, beside their own."""
        windows = sum(self.cache.layer_bytes_per_token(mixer) for mixer in self._own if window_tokens(mixer))
        return self.max_num_batched_tokens * windows * self.element_bytes if self.unified else 0.0

    def drafter_bytes(self, context_tokens: int) -> float:
        """Return the bytes of a slot's drafted context."""
        if not self.draft_tokens:
            return 0.0
        return self._cells(context_tokens) * self.cache.layer_bytes_per_token(self._mixers[-1]) * _DRAFT_ELEMENT_BYTES

    def slot_bytes(self, context_tokens: int) -> float:
        """Return the bytes of one slot of that context."""
        cells, step = self._cells(context_tokens), 0 if self.unified else self.max_num_batched_tokens
        grown = 0.0
        for mixer in self._own:
            window = window_tokens(mixer)
            kept = cells if window is None else min(cells, self._cells(window + step))
            grown += kept * self.cache.layer_bytes_per_token(mixer)
        return grown * self.element_bytes + self.drafter_bytes(context_tokens) + self.state_bytes

    def requests(self, pool_bytes: float, context_tokens: int) -> float:
        """Return how many slots of that context fit."""
        return max(0.0, pool_bytes - self.shared_bytes) / self.slot_bytes(context_tokens)

    @property
    def _mixers(self) -> tuple[Mixer, ...]:
        return tuple(self.cache.model.mixers)

    @property
    def _own(self) -> tuple[Mixer, ...]:
        """The mixers of the model itself."""
        return self._mixers[:-1] if self.draft_tokens else self._mixers

    def _cells(self, tokens: int) -> int:
        return tokens if self.unified else _padded(tokens)


def _padded(tokens: int) -> int:
    return ceil(tokens / _CELLS) * _CELLS


_STATES_KEPT_SINCE = (0, 29)  # vLLM keeps prefixes of models with recurrent layers unless that is switched off


def request_pool(cache: KvCache, engine: Engine, parallelism: Parallelism = ONE_GPU) -> RequestPool:
    """
    Return how an engine divides the cache of one rank.

    Raises ConfigError for layers or a cache type whose layout is not known.
    """
    if engine.name == "vllm":
        cache = replace(cache, draft_tokens=engine.draft_tokens)
        packed = engine.version >= STEPS_OVERLAP_SINCE
        blocks = block_pool(cache, engine.block_tokens, states_of_request(engine), packed=packed)
        return VllmPool(
            blocks=blocks.divided(parallelism.context), in_flight_tokens=in_flight_tokens(engine, parallelism.pipeline)
        )
    if any(isinstance(mixer, CompressedAttention) for mixer in cache.model.mixers):
        raise ConfigError(f"{cache.model.source}: the cache of compressed attention is not known for {engine.name}")
    if any(layer.cross for layer in cache.model.decoder):
        raise ConfigError(f"{cache.model.source}: the cache of encoder-decoder models is not known for {engine.name}")
    if engine.name == "sglang":
        return SglangPool(token_bytes=_sglang_token_bytes(cache, engine), state_bytes=cache.state_bytes)
    if cache.element_bytes == 1:
        raise ConfigError("llama.cpp has no fp8 KV cache: give --cache-type q8_0")
    kind = engine.options.cache_type or "f16"
    if kind not in CACHE_TYPE_BYTES:
        raise ConfigError(f"cache type {kind!r} is not known for llama.cpp; known: {', '.join(CACHE_TYPE_BYTES)}")
    return LlamaCppPool(
        cache=replace(cache, element_bytes=1),
        element_bytes=CACHE_TYPE_BYTES[kind],
        max_num_batched_tokens=engine.max_num_batched_tokens,
        unified=bool(engine.options.kv_unified),
        draft_tokens=engine.draft_tokens,
    )


def in_flight_tokens(engine: Engine, stages: int = 1) -> int:
    """
    Return the tokens that vLLM schedules before the first of them are settled: of one step, and of those that overlap.

    Source: `max_in_flight_tokens` in vLLM's config. A server of DeepSeek-V4-Flash with two steps of 8,192 tokens logged
    1,179,770 tokens in 20,377 blocks for requests of 500,000 (vLLM issue 51163).
    """
    overlapping = 1 + stages if engine.version >= STEPS_OVERLAP_SINCE else 1
    return overlapping * engine.max_num_batched_tokens


def keeping_prefixes(engine: Engine) -> Engine:
    """Return vLLM as it keeps prefixes, where nothing is said: its default for recurrent layers moves with versions."""
    if engine.name != "vllm" or engine.options.prefix_caching is not None:
        return engine
    return replace(engine, options=replace(engine.options, prefix_caching=True))


def states_of_request(engine: Engine) -> int:
    """
    Return the blocks of recurrent state that vLLM reserves a request: two where prefixes are kept, one a drafted token.

    Source: MambaSpec in vLLM's kv_cache_interface.py. Logs of Qwen3.5 have two where the option was given (0.17, 0.24)
    and one where it was not (0.19: 33.04 requests of 32,768 tokens in 1,487 blocks of 784; 0.26); 0.29 has two.
    """
    kept = engine.options.prefix_caching
    if kept is None:
        kept = engine.version >= _STATES_KEPT_SINCE
    return (2 if kept else 1) + engine.draft_tokens


def _sglang_token_bytes(cache: KvCache, engine: Engine) -> float:
    if engine.version < _WINDOWS_SINCE:
        return cache.bytes_per_token
    whole = cache.bytes_per_token_beyond_windows
    return whole + _WINDOW_SHARE * (cache.bytes_per_token - whole) if whole else cache.bytes_per_token
