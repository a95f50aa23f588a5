"""The arithmetic of a KV cache by itself: how many blocks, tokens and requests a pool of some GiB holds."""

from dataclasses import asdict, dataclass
from math import floor

from llmload.errors import ConfigError
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.block_pool import BlockPool, block_pool
from llmload.sizing.engine_pools import VllmPool, longest_request
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache, default_kv_dtype
from llmload.sizing.parallelism import Parallelism, rank_model
from llmload.units import GIB

_BATCHED_TOKENS = 8192  # vLLM's max_num_batched_tokens on cards of 70 GiB and more
_OVERLAPPING_STEPS = 2  # since vLLM 0.26; windows keep the tokens of both


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRequest:
    """A pool of each GPU of a tensor-parallel group, and what is to fit; context None is the model's longest."""

    model: ModelSpec
    pool_gib: float
    tensor: int = 1
    kv_dtype: str | None = None  # None: as the model declares, else bf16
    block_tokens: int = 16
    context_tokens: int | None = None
    max_num_batched_tokens: int = _BATCHED_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSheet:
    """What the pool holds, by vLLM's rules; requests are of the whole context, all at once."""

    request: PoolRequest
    kv_dtype: str
    layout: BlockPool
    context_tokens: int
    blocks: int
    tokens: int
    blocks_per_request: int
    requests_at_once: int
    longest_request_tokens: int

    @property
    def max_concurrency(self) -> float:
        """Requests of the whole context, as vLLM logs them: with a fraction."""
        return self.blocks / self.blocks_per_request


def pool_sheet(request: PoolRequest) -> PoolSheet:
    """
    Return what the pool holds.

    Raises ConfigError for a split that engines refuse, layers whose blocks are unknown, and a model without a longest
    context where none is given.
    """
    model = request.model
    context_tokens = request.context_tokens or model.max_position_tokens
    if context_tokens is None:
        raise ConfigError(f"{model.name} states no longest context: give --context")
    part = rank_model(model, Parallelism(tensor=request.tensor))
    kv_dtype = request.kv_dtype or default_kv_dtype(model)
    cache = KvCache(model=part, element_bytes=KV_ELEMENT_BYTES[kv_dtype])
    layout = block_pool(cache, request.block_tokens)
    blocks = layout.blocks(floor(request.pool_gib * GIB))
    in_flight = _OVERLAPPING_STEPS * request.max_num_batched_tokens
    pool = VllmPool(blocks=layout, in_flight_tokens=in_flight)
    limit = model.max_position_tokens or (blocks + 1) * layout.block_tokens
    each = layout.blocks_per_request(context_tokens, in_flight)
    return PoolSheet(
        request=request,
        kv_dtype=kv_dtype,
        layout=layout,
        context_tokens=context_tokens,
        blocks=blocks,
        tokens=int(blocks / each * context_tokens) if len(layout.groups) > 1 else layout.tokens(blocks),
        blocks_per_request=each,
        requests_at_once=blocks // each,
        longest_request_tokens=longest_request(pool, request.pool_gib * GIB, limit),
    )


def pool_json(sheet: PoolSheet) -> dict[str, object]:
    """Return the sheet for programs, units in the keys."""
    request = sheet.request
    return {
        "model": request.model.name,
        "pool_gib": request.pool_gib,
        "tensor_parallel": request.tensor,
        "kv_dtype": sheet.kv_dtype,
        "block_bytes": sheet.layout.block_bytes,
        "block_tokens": sheet.layout.block_tokens,
        "groups": [asdict(group) for group in sheet.layout.groups],
        "blocks": sheet.blocks,
        "tokens": sheet.tokens,
        "context_tokens": sheet.context_tokens,
        "max_num_batched_tokens": request.max_num_batched_tokens,
        "blocks_per_request": sheet.blocks_per_request,
        "requests_at_once": sheet.requests_at_once,
        "max_concurrency": round(sheet.max_concurrency, 2),
        "longest_request_tokens": sheet.longest_request_tokens,
    }


def pool_text(sheet: PoolSheet) -> str:
    """Return the sheet for people: each line with what it is computed from."""
    request, layout = sheet.request, sheet.layout
    each = f" on each of {request.tensor} GPUs" if request.tensor > 1 else ""
    groups = len(layout.groups)
    shared = f", shared by {groups} groups of layers" if groups > 1 else ""
    block_tokens = " or ".join(f"{tokens:,}" for tokens in sorted({each.block_tokens for each in layout.groups}))
    rows = (
        ("a block", f"{layout.block_bytes:,} bytes", f"{block_tokens} tokens{shared}"),
        ("blocks", f"{sheet.blocks:,}", f"{request.pool_gib:g} GiB / {layout.block_bytes:,} bytes"),
        ("tokens", f"{sheet.tokens:,}", "as vLLM logs its KV cache size"),
        ("a request", f"{sheet.blocks_per_request:,} blocks", f"of {sheet.context_tokens:,} tokens"),
        ("requests at once", f"{sheet.requests_at_once:,}", f"vLLM logs {sheet.max_concurrency:,.2f}x"),
        ("longest request", f"{sheet.longest_request_tokens:,} tokens", _longest_is(sheet)),
    )
    title = f"{request.model.name}: {request.pool_gib:g} GiB of KV cache in {sheet.kv_dtype}{each}"
    return "\n".join([title, *(f"  {name:<18}{value:>20}  {note}".rstrip() for name, value, note in rows)])


def _longest_is(sheet: PoolSheet) -> str:
    if sheet.longest_request_tokens == sheet.request.model.max_position_tokens:
        return "the model's own limit"
    return "that the pool holds"
