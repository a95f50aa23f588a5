"""GPUs, those known and those of this machine; and what an engine takes of one beside weights and KV cache."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from llmload.errors import ConfigError
from llmload.sizing.architecture import Dense, Experts, LatentAttention, ModelSpec
from llmload.sizing.catalogue import read_data
from llmload.sizing.weights import ONE_GPU, Parallelism, rank_model
from llmload.units import GB, GIB

# GPUs: the models that llmload knows, with memory and bandwidth, and the NVIDIA GPUs of this machine.


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU model; None is unknown. Memory is in GiB as CUDA reports it, nominal_gb is that of its name."""

    name: str
    nominal_gb: int
    total_gib: float | None
    bandwidth_gb_per_s: int  # 10^9 bytes a second
    tensor_16bit_tflops: int | None  # dense
    nvlink_gb_per_s: int | None  # both directions; 0: it has none
    source: str

    @property
    def usable_gib(self) -> float:
        """Memory in GiB that engines see; where unknown, 97 % of the name's GB, less than any GPU reported."""
        return self.total_gib if self.total_gib is not None else self.nominal_gb * GB / GIB * 0.97


def gpus() -> list[Gpu]:
    """Return the GPU models that ship with llmload, in the order of gpus.json."""
    return [Gpu(**entry) for entry in read_data("gpus.json")["gpus"]]


def find_gpu(name: str) -> Gpu:
    """
    Return the GPU with that name, or the only one whose name begins with it, in any case; L4 is L4-24GB, not L40S.

    Raises ConfigError where there is none, or more than one.
    """
    wanted = name.lower()
    exact = [gpu for gpu in gpus() if gpu.name.lower() == wanted]
    whole_words = [gpu for gpu in gpus() if gpu.name.lower().startswith(f"{wanted}-")]
    found = exact or whole_words or [gpu for gpu in gpus() if gpu.name.lower().startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"GPU {name!r} may be {' or '.join(gpu.name for gpu in found)}: give the whole name")
    raise ConfigError(f"GPU {name!r} is not known; `llmload vram gpus` lists those that are")


_LINKS = 18  # NVML's NVLINK_MAX_LINKS


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGpu:
    """One GPU of this machine; total_gib is what the driver reports, a little more than CUDA does."""

    index: int
    name: str
    total_gib: float
    used_gib: float
    driver: str
    nvlinks: int  # links that are up; 0 where there are none


def local_gpus() -> list[LocalGpu]:
    """Return the GPUs of this machine, by NVML; none without nvidia-ml-py, a driver or a GPU."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - NVML's errors are only known once it is imported; none of them is an error here
        return []
    try:
        return [_describe(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _describe(nvml: Any, index: int) -> LocalGpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return LocalGpu(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total_gib=memory.total / GIB,
        used_gib=memory.used / GIB,
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        nvlinks=sum(_is_up(nvml, handle, link) for link in range(_LINKS)),
    )


def _is_up(nvml: Any, handle: Any, link: int) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
    except nvml.NVMLError:  # a card without that link
        return False


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


VLLM_LATEST = (0, 21)  # the version where none is given; no difference in memory is known above it
_GRAPHS_COUNTED_SINCE = (0, 21)  # vLLM's own log: "CUDA graph memory profiling is enabled (default since v0.21.0)"
# sglang/srt/server_args.py of 0.4: the fraction of memory for weights and KV cache, by GPUs of one copy.
_SGLANG_UTILIZATION: Mapping[int, float] = {16: 0.79, 8: 0.81, 4: 0.85, 2: 0.87, 1: 0.88}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with bounds that measured runs stayed within: low <= best <= high, in the unit of its name."""

    low: float
    best: float
    high: float

    @classmethod
    def around(cls, best: float, fraction: float, least: float = 0.0) -> "Estimate":
        """Return the best figure plus and minus a fraction of it, and at least `least` in its own unit."""
        margin = max(abs(best) * fraction, least)
        return cls(best - margin, best, best + margin)

    def __add__(self, other: "Estimate") -> "Estimate":
        """Return the sum of two parts whose errors may have the same direction, as when both follow one setting."""
        return Estimate(self.low + other.low, self.best + other.best, self.high + other.high)

    @property
    def figures(self) -> tuple[float, float, float]:
        """Low, best and high."""
        return self.low, self.best, self.high

    def left_of(self, whole: float) -> "Estimate":
        """Return what is left of a whole: the high bound of this leaves the low bound."""
        return Estimate(whole - self.high, whole - self.best, whole - self.low)

    def rounded(self, digits: int) -> dict[str, float]:
        """Return the three figures for JSON."""
        return {"low": round(self.low, digits), "best": round(self.best, digits), "high": round(self.high, digits)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine as it is started; `utilization` is the fraction of a GPU's memory that it may use."""

    name: str  # vllm or sglang
    version: tuple[int, int]
    utilization: float
    max_num_seqs: int
    max_num_batched_tokens: int
    block_tokens: int = 16
    graphs: bool = True  # CUDA graphs are captured

    @property
    def counts_graphs(self) -> bool:
        """Whether the engine reserves memory for its CUDA graphs before it sizes the KV cache."""
        return self.graphs and self.name == "vllm" and self.version >= _GRAPHS_COUNTED_SINCE


def engine_for(
    gpu: Gpu,
    name: str = "vllm",
    version: str | None = None,
    *,
    utilization: float | None = None,
    gpus: int = 1,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
) -> Engine:
    """
    Return the engine with its defaults on that GPU; `gpus` are those of one copy of the model.

    Raises ConfigError for an unknown engine, version or utilization. Source: vLLM engine/arg_utils.py,
    `get_batch_defaults`; SGLang server_args.py.
    """
    if name not in ("vllm", "sglang"):
        raise ConfigError(f"engine {name!r} is not known; known: vllm, sglang")
    if utilization is not None and not 0 < utilization <= 1:
        raise ConfigError(f"utilization = {utilization} is not a fraction above 0 and up to 1")
    seqs, batched = _batch_defaults(gpu)
    release = parse_version(version) if version else VLLM_LATEST
    return Engine(
        name=name,
        version=release,
        utilization=utilization or default_utilization(name, release, gpus),
        max_num_seqs=max_num_seqs or seqs,
        max_num_batched_tokens=max_num_batched_tokens or batched,
    )


def parse_version(text: str) -> tuple[int, int]:
    """Return the first two numbers of a version such as 0.19.0 or v0.8.5.post1; ConfigError where it has none."""
    found = re.match(r"v?(\d+)\.(\d+)", text.strip())
    if found is None:
        raise ConfigError(f"engine version {text!r} does not begin with two numbers, as 0.19 does")
    return int(found[1]), int(found[2])


def default_utilization(name: str, version: tuple[int, int], gpus: int = 1) -> float:
    """Return the engine's default utilization; vLLM raised it when it began to count its graphs."""
    if name == "sglang":
        return next(fraction for least, fraction in _SGLANG_UTILIZATION.items() if gpus >= least)
    return 0.92 if version >= _GRAPHS_COUNTED_SINCE else 0.9


def _batch_defaults(gpu: Gpu) -> tuple[int, int]:
    """vLLM's max_num_seqs and max_num_batched_tokens for its API server on that GPU."""
    total_gib = gpu.usable_gib
    if total_gib >= 160:
        return 1024, 16384
    if total_gib >= 70 and "a100" not in gpu.name.lower():
        return 1024, 8192
    return 256, 2048


_LEAN_SAMPLER_SINCE = (0, 17)
_FAT_LOGIT_BYTES = 37.51  # of the sampler's warm-up, for each entry of its logits, before that version
_LOGIT_BYTES_BESIDE_OWN = 12  # since then, beside the logit itself
MXFP4_EXPERT_STEP = 256  # vLLM pads the width of MXFP4 experts to a multiple of it: 2880 becomes 3072


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Bytes on one GPU for neither weights nor KV cache."""

    activation_bytes: Estimate
    non_torch_bytes: Estimate  # CUDA context, NCCL buffers, libraries
    graph_bytes: Estimate

    @property
    def total_bytes(self) -> Estimate:
        """The sum of the three."""
        return self.activation_bytes + self.non_torch_bytes + self.graph_bytes


def overhead(
    model: ModelSpec,
    engine: Engine,
    parallelism: Parallelism = ONE_GPU,
    *,
    stage: int = 0,
    weight_format: str = "bf16",
) -> Overhead:
    """
    Return what vLLM takes on one rank of a pipeline stage.

    Formulas: fitted to the parts that vLLM 0.19 logged in 45 runs on H100, and checked against 8 runs of vLLM 0.11
    (llm-d planner, results_raw.csv and empirical-vllm-memory-results.md); bounds are the largest errors there.
    """
    last = stage == parallelism.pipeline - 1
    peak = activation_peak_bytes(model, engine, parallelism, last_stage=last, weight_format=weight_format)
    graphs = Estimate(0.4, 0.85, 1.95) if engine.counts_graphs else Estimate(0.0, 0.0, 0.0)
    return Overhead(
        activation_bytes=Estimate.around(peak, 0.1, 0.15 * GIB),
        non_torch_bytes=_gib(_libraries_gib(engine, parallelism)),
        graph_bytes=_gib(graphs),
    )


def activation_peak_bytes(
    model: ModelSpec,
    engine: Engine,
    parallelism: Parallelism = ONE_GPU,
    *,
    last_stage: bool = True,
    weight_format: str = "bf16",
) -> float:
    """
    Return the peak of vLLM's warm-up on one rank: the sampler's logits or the widest layer, whichever is larger.

    Experts run in a workspace that stays allocated, so it is added to the sampler's; MXFP4 kernels have none.
    """
    tokens, hidden = engine.max_num_batched_tokens, model.hidden_size
    width = 4 if weight_format == "fp32" else 2
    logit_bytes = _FAT_LOGIT_BYTES if engine.version < _LEAN_SAMPLER_SINCE else _LOGIT_BYTES_BESIDE_OWN + width
    sampler = logit_bytes * engine.max_num_seqs * model.vocab_size if last_stage else 0.0
    part = rank_model(model, parallelism)
    experts = [layer.feed_forward for layer in part.decoder if isinstance(layer.feed_forward, Experts)]
    if experts and weight_format != "mxfp4":
        chosen = max(block.per_token * (3 * block.intermediate_size + hidden) for block in experts)
        return sampler + width * tokens * chosen
    widths = [layer.feed_forward.intermediate_size for layer in part.decoder if isinstance(layer.feed_forward, Dense)]
    layer_peak = width * tokens * (3 * max(widths, default=0) + 2 * hidden)
    return max(sampler, layer_peak) + width * tokens * hidden + 0.11 * GIB


def kept_tables_bytes(model: ModelSpec, parallelism: Parallelism = ONE_GPU) -> int:
    """
    Return the bytes that vLLM counts among a rank's weights and that are not parameters.

    The table of rotary angles, for every position, and for latent attention the two projections it absorbs.
    """
    rotary = 2 * (model.max_position_tokens or 0) * model.rotary_dim
    absorbed = sum(
        2 * mixer.kv_lora_rank * (mixer.heads // parallelism.tensor) * (mixer.qk_nope_head_dim + mixer.v_head_dim)
        for mixer in (layer.mixer for layer in model.decoder)
        if isinstance(mixer, LatentAttention)
    )
    return rotary + absorbed // parallelism.pipeline


def _libraries_gib(engine: Engine, parallelism: Parallelism) -> Estimate:
    """GiB of CUDA, NCCL and other libraries: with tensor parallelism, with pipeline stages, with neither."""
    lean = engine.version >= _LEAN_SAMPLER_SINCE
    if parallelism.tensor > 1:
        return Estimate(2.0, 2.1, 2.25) if lean else Estimate(0.5, 0.55, 0.7)
    if parallelism.pipeline > 1:
        return Estimate(0.05, 0.2, 0.4)
    return Estimate(0.2, 0.25, 0.5) if lean else Estimate(0.08, 0.13, 0.3)


def _gib(estimate: Estimate) -> Estimate:
    return Estimate(estimate.low * GIB, estimate.best * GIB, estimate.high * GIB)
