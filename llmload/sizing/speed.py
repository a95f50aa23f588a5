"""Upper bounds of speed by memory bandwidth and arithmetic (the roofline), and measured speeds beside them (MBU)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from llmload.errors import ConfigError
from llmload.sizing.architecture import Experts, ModelSpec
from llmload.sizing.cards import Gpu, find_gpu
from llmload.sizing.catalogue import load_model, read_data
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache, default_kv_dtype
from llmload.sizing.parameters import ParameterCounts, count_parameters
from llmload.sizing.weights import FROM_FILE, default_format, file_bytes, format_of, weights_bytes
from llmload.units import GB, GIB

_PEERS_NEEDED = 4
_FAR_FROM_PEERS = 5.0  # deviations; for normal scatter that is 1 in 1,000
_LOW_BESIDE_PEERS = 2 / 3


def decode_step_bytes(
    model: ModelSpec, *, weight_format: str = "bf16", kv_dtype: str = "bf16", context_tokens: int = 0, batch: int = 1
) -> float:
    """
    Return the bytes that one decoding step reads from memory, over all GPUs: weights once, each sequence's cache.

    Of an untied input embedding, only the batch's rows are read; of the experts, those that random tokens choose.
    Raises ConfigError for an unknown format. Source: Pope et al. 2022, section 2.
    """
    counts = count_parameters(model)
    looked_up = counts.embed if counts.lm_head else 0
    read = replace(
        counts,
        embed=counts.embed - looked_up + (batch * model.hidden_size if looked_up else 0),
        experts=round(counts.experts * _experts_read_fraction(model, batch)),
    )
    cache = KvCache(model=model, element_bytes=KV_ELEMENT_BYTES[kv_dtype])
    return _weights_read(model, read, weight_format) + batch * cache.sequence_bytes(context_tokens)


def decode_bound_tokens_per_s(
    model: ModelSpec,
    gpu: Gpu,
    *,
    gpus: int = 1,
    weight_format: str = "bf16",
    kv_dtype: str = "bf16",
    context_tokens: int = 0,
    batch: int = 1,
) -> float:
    """
    Return the upper bound of tokens/s that a batch of sequences decodes together, on the GPUs of one copy.

    bound = batch x GPUs x bandwidth / bytes a step, or the arithmetic's limit where that is lower. Source: the
    roofline model (Williams et al. 2009) with the GPU's data sheet.
    """
    step_bytes = decode_step_bytes(
        model, weight_format=weight_format, kv_dtype=kv_dtype, context_tokens=context_tokens, batch=batch
    )
    return _bound_tokens_per_s(model, gpu, gpus, batch, step_bytes)


def _bound_tokens_per_s(model: ModelSpec, gpu: Gpu, gpus: int, batch: int, step_bytes: float) -> float:
    if gpu.bandwidth_gb_per_s is None:
        raise ConfigError(f"the bandwidth of {gpu.name} is not known: give --gpu-bandwidth")
    by_memory = batch * gpus * gpu.bandwidth_gb_per_s * GB / step_bytes
    by_arithmetic = prefill_bound_tokens_per_s(model, gpu, gpus=gpus)
    return by_memory if by_arithmetic is None else min(by_memory, by_arithmetic)


def prefill_bound_tokens_per_s(model: ModelSpec, gpu: Gpu, *, gpus: int = 1) -> float | None:
    """Return the bound of prompt tokens/s, 2 operations an active parameter; None where the GPU's speed is unknown."""
    if gpu.tensor_16bit_tflops is None:
        return None
    counts = count_parameters(model)
    computed = counts.active - (counts.embed if counts.lm_head else 0)
    return gpus * gpu.tensor_16bit_tflops * 1e12 / (2 * computed)


def mbu(measured_tokens_per_s: float, bound_tokens_per_s: float) -> float:
    """Return the memory bandwidth utilisation, the measured fraction of the bound; above 1 is impossible."""
    return measured_tokens_per_s / bound_tokens_per_s


def implausible(utilization: float, peers: Sequence[float] = ()) -> str | None:
    """
    Return why a bandwidth utilisation is implausible, in a sentence; None where it is not.

    Above 1 it is impossible. Far below its peers (other models under the same engine and GPUs, without itself) it is
    doubtful: by more than five median deviations, and below two thirds of their median. At least four peers are needed.
    """
    if utilization > 1:
        return f"{utilization:.0%} of the bandwidth bound: faster than the weights can be read"
    if len(peers) < _PEERS_NEEDED:
        return None
    middle = median(peers)
    deviation = median(abs(peer - middle) for peer in peers)
    if utilization < _LOW_BESIDE_PEERS * middle and middle - utilization > _FAR_FROM_PEERS * deviation:
        return f"{utilization:.1%} of the bandwidth bound, where its peers have {min(peers):.0%} to {max(peers):.0%}"
    return None


def _weights_read(model: ModelSpec, read: ParameterCounts, weight_format: str) -> float:
    """The bytes of these parameters; of weight files, their fraction of all parameters."""
    if weight_format == FROM_FILE and model.checkpoint is not None:
        return file_bytes(model, read)
    return weights_bytes(read, format_of(model, weight_format))


def _experts_read_fraction(model: ModelSpec, batch: int) -> float:
    """The fraction of all expert weights that a batch reads: 1 - (1 - k/E)^batch of each layer's."""
    size, read = 0.0, 0.0
    for block, layers in Counter(layer.feed_forward for layer in model.layers).items():
        if isinstance(block, Experts):
            weight = layers * block.count * block.intermediate_size
            size += weight
            read += weight * (1 - (1 - block.per_token / block.count) ** batch)
    return read / size if size else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRequest:
    """A model on the GPUs of one copy, and the batches whose bounds are wanted; the first is the measured one."""

    model: ModelSpec
    gpu: Gpu
    count: int = 1  # GPUs
    weight_format: str | None = None  # None: as the model comes
    kv_dtype: str | None = None  # None: as the model declares
    context_tokens: int = 0  # of each sequence
    batches: tuple[int, ...] = ()  # none: 1, 8 and 64 sequences, or the one that was measured
    measured_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBound:
    """The bound of one batch, all its sequences together."""

    batch: int
    step_gib: float  # read from memory at each step
    bound_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedBounds:
    """The answer to a BoundRequest; None where nothing was measured or the GPU's arithmetic is unknown."""

    request: BoundRequest
    weight_format: str
    kv_dtype: str
    decode: tuple[DecodeBound, ...]
    prefill_bound_tokens_per_s: float | None
    mbu: float | None
    implausible: str | None


def speed_bounds(request: BoundRequest) -> SpeedBounds:
    """Return the bounds of each batch and the measured fraction of the first; ConfigError for an unknown format."""
    model, gpu, measured = request.model, request.gpu, request.measured_tokens_per_s
    weight_format = request.weight_format or default_format(model)
    kv_dtype = request.kv_dtype or default_kv_dtype(model)

    rows = []
    for batch in request.batches or ((1,) if measured else (1, 8, 64)):
        step_bytes = decode_step_bytes(
            model,
            weight_format=weight_format,
            kv_dtype=kv_dtype,
            context_tokens=request.context_tokens,
            batch=batch,
        )
        bound = _bound_tokens_per_s(model, gpu, request.count, batch, step_bytes)
        rows.append(DecodeBound(batch=batch, step_gib=step_bytes / GIB, bound_tokens_per_s=bound))
    used = None if measured is None else mbu(measured, rows[0].bound_tokens_per_s)
    return SpeedBounds(
        request=request,
        weight_format=weight_format,
        kv_dtype=kv_dtype,
        decode=tuple(rows),
        prefill_bound_tokens_per_s=prefill_bound_tokens_per_s(model, gpu, gpus=request.count),
        mbu=used,
        implausible=None if used is None else implausible(used),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedCell:
    """One measured speed, its fraction of the bound, and why that is implausible, if it is."""

    tokens_per_s: float
    mbu: float
    implausible: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRow:
    """One model: its bound at batch 1 without context, and a cell by engine; None: not measured."""

    model: str
    gpus: int
    bound_tokens_per_s: float
    cells: dict[str, SpeedCell | None]


def reference_speed_rows() -> list[SpeedRow]:
    """Return the reference document's six models in 16 bits on A100s; peers are models under the same engine."""
    data = read_data("reference_speeds.json")
    gpu, engines = find_gpu(data["gpu"]), data["engines"]
    bounds = [
        decode_bound_tokens_per_s(load_model(row["catalogue"]), gpu, gpus=row["gpus"], weight_format="bf16")
        for row in data["rows"]
    ]
    shares = [
        [None if speed is None else mbu(speed, bound) for speed in row["tokens_per_s"]]
        for row, bound in zip(data["rows"], bounds, strict=True)
    ]
    rows = []
    for i, (row, bound) in enumerate(zip(data["rows"], bounds, strict=True)):
        cells: dict[str, SpeedCell | None] = {}
        for j, engine in enumerate(engines):
            share, speed = shares[i][j], row["tokens_per_s"][j]
            peers = [value for k, other in enumerate(shares) if k != i and (value := other[j]) is not None]
            cells[engine] = (
                None
                if share is None
                else SpeedCell(tokens_per_s=speed, mbu=share, implausible=implausible(share, peers))
            )
        rows.append(SpeedRow(model=row["model"], gpus=row["gpus"], bound_tokens_per_s=bound, cells=cells))
    return rows
