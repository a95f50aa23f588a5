"""A model's data sheet: its parameters, its weights in each format, and what a context keeps."""

from dataclasses import asdict, dataclass

from llmload.vram.kv_cache import KV_ELEMENT_BYTES, KvCache
from llmload.vram.model import ModelSpec
from llmload.vram.parameters import ParameterCounts, count_parameters
from llmload.vram.weights import WEIGHT_FORMATS, weights_bytes

_GIB = 2**30
_CONTEXTS_TOKENS = (2048, 8192, 32768, 131072)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSheet:
    """What a model needs before any engine is chosen: sizes in bytes, contexts in tokens."""

    model: ModelSpec
    counts: ParameterCounts
    kv_dtype: str
    weights_bytes: dict[str, int]
    kv_bytes_per_token: int
    kv_bytes_per_token_beyond_windows: int
    kv_bytes_per_input_token: int
    state_bytes: int
    sequence_bytes: dict[int, int]  # by context; the encoder's input is not in it


def model_sheet(model: ModelSpec, kv_dtype: str = "bf16") -> ModelSheet:
    """The data sheet of a model whose cache is stored as kv_dtype, one of KV_ELEMENT_BYTES."""
    counts = count_parameters(model)
    cache = KvCache(model=model, element_bytes=KV_ELEMENT_BYTES[kv_dtype])
    longest = model.max_position_tokens
    contexts = sorted(
        {c for c in _CONTEXTS_TOKENS if longest is None or c < longest} | ({longest} if longest else set())
    )
    return ModelSheet(
        model=model,
        counts=counts,
        kv_dtype=kv_dtype,
        weights_bytes={name: weights_bytes(counts, form) for name, form in WEIGHT_FORMATS.items()},
        kv_bytes_per_token=cache.bytes_per_token,
        kv_bytes_per_token_beyond_windows=cache.bytes_per_token_beyond_windows,
        kv_bytes_per_input_token=cache.bytes_per_input_token,
        state_bytes=cache.state_bytes,
        sequence_bytes={context: cache.sequence_bytes(context) for context in contexts},
    )


def sheet_json(sheet: ModelSheet) -> dict[str, object]:
    """The sheet for programs, every unit in its key."""
    counts = sheet.counts
    model = sheet.model
    return {
        "model": model.name,
        "model_type": model.model_type,
        "source": model.source,
        "layers": len(model.encoder) + len(model.decoder),
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "max_position_tokens": model.max_position_tokens,
        "quantisation_declared": model.quantisation,
        "uncounted": list(model.uncounted),
        "checkpoint": asdict(model.checkpoint) if model.checkpoint else None,
        "params": {
            **{key: value for key, value in asdict(counts).items() if key != "idle_experts"},
            "backbone": counts.backbone,
            "total": counts.total,
            "active": counts.active,
            "read_per_token": counts.read_per_token,
        },
        "weights_bytes": sheet.weights_bytes,
        "kv_dtype": sheet.kv_dtype,
        "kv_bytes_per_token": sheet.kv_bytes_per_token,
        "kv_bytes_per_token_beyond_windows": sheet.kv_bytes_per_token_beyond_windows,
        "kv_bytes_per_input_token": sheet.kv_bytes_per_input_token,
        "state_bytes": sheet.state_bytes,
        "sequence_bytes_by_context_tokens": sheet.sequence_bytes,
    }


def sheet_text(sheet: ModelSheet) -> str:
    """The sheet for people, in GiB and KiB."""
    return "\n".join([*_heading(sheet.model), *_parameters(sheet.counts), *_weights(sheet), *_cache(sheet)])


def _heading(model: ModelSpec) -> list[str]:
    stacks = f"{len(model.encoder)} + {len(model.decoder)}" if model.encoder else str(len(model.decoder))
    limit = f"{model.max_position_tokens:,} tokens" if model.max_position_tokens else "no fixed limit"
    sizes = f"{stacks} layers, hidden size {model.hidden_size:,}, vocabulary {model.vocab_size:,}"
    lines = [f"{model.name}: {model.model_type}, {sizes}, context {limit}"]
    if model.uncounted:
        lines.append(f"Language model only, not counted: {', '.join(model.uncounted)}")
    if model.quantisation:
        lines.append(f"The config declares quantised weights: {model.quantisation}")
    if model.checkpoint:
        types = ", ".join(f"{name} {size / _GIB:,.3f}" for name, size in model.checkpoint.bytes_by_type)
        lines.append(f"Its files hold {model.checkpoint.tensor_bytes / _GIB:,.3f} GiB{f': {types}' if types else ''}")
    return lines


def _parameters(counts: ParameterCounts) -> list[str]:
    parts = {
        "embedding": counts.embed,
        "attention": counts.attention,
        "MLP": counts.mlp,
        "experts": counts.experts,
        "router": counts.router,
        "norms": counts.norms,
        "LM head": counts.lm_head,
    }
    lines = [f"  {name:<18}{count:>19,}" for name, count in parts.items() if count]
    lines.append(f"  {'total':<18}{counts.total:>19,}")
    if counts.idle_experts:
        lines.append(f"  {'active per token':<18}{counts.active:>19,}")
    tied = "" if counts.lm_head else " (LM head tied to the embedding)"
    return ["", f"Parameters{tied}", *lines]


def _weights(sheet: ModelSheet) -> list[str]:
    cells = [f"{name:<6}{size / _GIB:>9,.2f}" for name, size in sheet.weights_bytes.items()]
    return ["", "Weights, GiB", *(f"  {'    '.join(cells[i : i + 4])}" for i in range(0, len(cells), 4))]


def _cache(sheet: ModelSheet) -> list[str]:
    lines = ["", f"KV cache, {sheet.kv_dtype}, one sequence", f"  a token {_kib(sheet.kv_bytes_per_token)}"]
    if sheet.kv_bytes_per_token_beyond_windows != sheet.kv_bytes_per_token:
        lines.append(f"  a token once the windows are full {_kib(sheet.kv_bytes_per_token_beyond_windows)}")
    if sheet.kv_bytes_per_input_token:
        lines.append(
            f"  a token of the encoder's input {_kib(sheet.kv_bytes_per_input_token)}, not in the contexts below"
        )
    if sheet.state_bytes:
        lines.append(f"  recurrent state {_kib(sheet.state_bytes)}, whatever the length")
    return lines + [f"  {tokens:>9,} tokens {size / _GIB:>9,.3f} GiB" for tokens, size in sheet.sequence_bytes.items()]


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:,.2f}".rstrip("0").rstrip(".") + " KiB"
