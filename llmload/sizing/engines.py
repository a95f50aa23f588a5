"""The engines that sizing knows: their defaults on a card, and the options that change how much memory is left."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from llmload.errors import ConfigError
from llmload.sizing.cards import Gpu
from llmload.units import MIB_PER_GIB

ENGINES: Final = ("vllm", "sglang", "llama.cpp")
_NOT_MODELLED: Final[Mapping[str, str]] = {"tgi": "TGI", "tensorrt-llm": "TensorRT-LLM", "trtllm": "TensorRT-LLM"}

DRAFTERS: Final = ("eagle", "eagle3", "mtp")

# The newest version whose memory is known to differ, where none is given; llama.cpp counts builds, not versions.
_LATEST: Final[Mapping[str, tuple[int, int]]] = {"vllm": (0, 29), "sglang": (0, 5), "llama.cpp": (0, 0)}
_USUAL_DRAFT_TOKENS: Final = 3
USUAL_LORA_RANK: Final = 16  # vLLM's default
_GRAPHS_COUNTED_SINCE: Final = (
    0,
    21,
)  # vLLM's own log: "CUDA graph memory profiling is enabled (default since v0.21.0)"


HOPPER_AND_LATER: Final = ("H100", "H200", "H20-", "H800", "GH200", "B100", "B200", "B300", "GB200", "GB300")
"""How the names of NVIDIA's cards for data centres begin that have their own kernels and buffers."""
_UNMEASURED_SHARE: Final = 0.2  # SGLang took 0.13 of two MI355X' memory beside what it takes of NVIDIA's cards


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a user says to an engine beside the model and its split; None is the engine's own default."""

    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool | None = None
    prefix_caching: bool | None = None
    drafter: str | None = None
    draft_tokens: int | None = None
    max_loras: int | None = None
    max_lora_rank: int | None = None
    cpu_offload_gib: float | None = None
    gpu_layers: int | None = None
    cache_type: str | None = None
    ctx_size: int | None = None  # tokens of all slots of llama.cpp together
    kv_unified: bool | None = None

    @property
    def given(self) -> set[str]:
        """The names of the options that are not left to the engine."""
        return {field.name for field in fields(self) if getattr(self, field.name) is not None}


# Each engine's own flag for an option. An option without one here would change nothing, so it is refused.
FLAGS: Final[Mapping[str, Mapping[str, str]]] = {
    "vllm": {
        "utilization": "--gpu-memory-utilization",
        "max_num_seqs": "--max-num-seqs",
        "max_num_batched_tokens": "--max-num-batched-tokens",
        "enforce_eager": "--enforce-eager",
        "prefix_caching": "--enable-prefix-caching",
        "drafter": "--speculative-config",
        "draft_tokens": "--speculative-config",
        "max_loras": "--max-loras",
        "max_lora_rank": "--max-lora-rank",
        "cpu_offload_gib": "--cpu-offload-gb",
    },
    "sglang": {
        "utilization": "--mem-fraction-static",
        "max_num_seqs": "--max-running-requests",
        "max_num_batched_tokens": "--chunked-prefill-size",
        "enforce_eager": "--disable-cuda-graph",
        "drafter": "--speculative-algorithm",
        "draft_tokens": "--speculative-num-draft-tokens",
        "max_loras": "--max-loras-per-batch",
        "max_lora_rank": "--max-lora-rank",
        "cpu_offload_gib": "--cpu-offload-gb",
    },
    "llama.cpp": {
        "max_num_seqs": "--parallel",
        "max_num_batched_tokens": "--ubatch-size",
        "gpu_layers": "--n-gpu-layers",
        "cache_type": "--cache-type-k",
        "ctx_size": "--ctx-size",
        "kv_unified": "--kv-unified",
        "drafter": "--spec-type",
        "draft_tokens": "--spec-draft-n-max",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine as it is started; `utilization` is the fraction of a GPU's memory that it may use."""

    name: str  # one of ENGINES
    version: tuple[int, int]
    options: EngineOptions = EngineOptions()  # as they were given; those that follow have the defaults filled in
    utilization: float
    max_num_seqs: int
    max_num_batched_tokens: int
    block_tokens: int = 16
    graphs: bool = True  # CUDA graphs are captured
    draft_tokens: int = 0
    symmetric_memory: bool = False  # GPUs of one copy share buffers of GiB, as Hopper and its successors do
    unmeasured_gib: float = 0.0  # what cards of other vendors may take beside, which was measured for NVIDIA's alone

    @property
    def counts_graphs(self) -> bool:
        """Whether the engine reserves memory for its CUDA graphs before it sizes the KV cache."""
        return self.graphs and self.name == "vllm" and self.version >= _GRAPHS_COUNTED_SINCE


def engine_for(
    gpu: Gpu, name: str = "vllm", version: str | None = None, *, gpus: int = 1, options: EngineOptions | None = None
) -> Engine:
    """
    Return the engine with its defaults on that GPU; `gpus` are those of one copy of the model.

    Raises ConfigError for an unknown engine, version or utilization, and for an option that the engine does not have
    or whose memory is not known. Sources: vLLM engine/arg_utils.py; SGLang server_args.py; llama.cpp common/arg.cpp.
    """
    options = options or EngineOptions()
    _check(name, options)
    return _engine(gpu, name, parse_version(version) if version else _LATEST[name], gpus, options)


def on_more_gpus(engine: Engine, gpu: Gpu, gpus: int) -> Engine:
    """Return the engine as it starts when one copy of the model has that many GPUs, which moves its defaults."""
    return _engine(gpu, engine.name, engine.version, gpus, engine.options)


def with_steps(engine: Engine, tokens: int) -> Engine:
    """Return the engine with steps of as many tokens."""
    options = replace(engine.options, max_num_batched_tokens=tokens)
    return replace(engine, options=options, max_num_batched_tokens=tokens)


def _engine(gpu: Gpu, name: str, version: tuple[int, int], gpus: int, options: EngineOptions) -> Engine:
    seqs, batched = _batch_defaults(gpu, name)
    batched = options.max_num_batched_tokens or batched
    return Engine(
        name=name,
        version=version,
        options=options,
        utilization=options.utilization or _default_utilization(gpu, name, version, gpus, batched, options.drafter),
        max_num_seqs=options.max_num_seqs or seqs,
        max_num_batched_tokens=batched,
        graphs=not options.enforce_eager,
        draft_tokens=(options.draft_tokens or _USUAL_DRAFT_TOKENS) if options.drafter else 0,
        symmetric_memory=gpu.name.startswith(HOPPER_AND_LATER),
        unmeasured_gib=0.0 if gpu.vendor in (None, "NVIDIA") else _UNMEASURED_SHARE * gpu.usable_gib,
    )


def _check(name: str, options: EngineOptions) -> None:
    if name.lower() in _NOT_MODELLED:
        raise ConfigError(
            f"the memory of {_NOT_MODELLED[name.lower()]} is not modelled; modelled: {', '.join(ENGINES)}"
        )
    if name not in ENGINES:
        raise ConfigError(f"engine {name!r} is not known; known: {', '.join(ENGINES)}")
    if not_modelled := sorted(map(_typed, options.given - FLAGS[name].keys())):
        raise ConfigError(f"{name} with {', '.join(not_modelled)} is not modelled, so nothing is said: leave it out")
    if options.utilization is not None and not 0 < options.utilization <= 1:
        raise ConfigError(f"--utilization {options.utilization:g} is not a fraction above 0 and up to 1")
    if options.drafter not in (None, *DRAFTERS):
        raise ConfigError(f"drafter {options.drafter!r} is not modelled; modelled: {', '.join(DRAFTERS)}")
    if name == "llama.cpp" and options.drafter not in (None, "mtp"):
        raise ConfigError(
            f"llama.cpp with --drafter {options.drafter} is not modelled, with mtp it is: size another draft model by "
            f"itself and give what it leaves as --gpu-memory-gib"
        )
    for needed, by in (("drafter", "draft_tokens"), ("max_loras", "max_lora_rank")):
        if by in options.given and needed not in options.given:
            raise ConfigError(f"{_typed(by)} says nothing without {_typed(needed)}")


def _typed(name: str) -> str:
    """An option as `llmload vram` takes it."""
    return "--enable-prefix-caching" if name == "prefix_caching" else f"--{name.replace('_', '-')}"


def is_version(text: str | None) -> bool:
    """Return whether a text begins with two numbers, as a version does."""
    return text is not None and re.match(r"v?\d+\.\d+", text.strip()) is not None


def parse_version(text: str) -> tuple[int, int]:
    """Return the first two numbers of a version such as 0.19.0 or v0.8.5.post1; ConfigError where it has none."""
    found = re.match(r"v?(\d+)\.(\d+)", text.strip())
    if found is None:
        raise ConfigError(f"engine version {text!r} does not begin with two numbers, as 0.19 does")
    return int(found[1]), int(found[2])


@dataclass(frozen=True, slots=True)
class _Tier:
    """Defaults of an engine on cards with less memory than `below_gib`."""

    below_gib: float
    max_num_batched_tokens: int
    graphs_up_to: tuple[int, int] = (0, 0)  # SGLang's largest batch with a graph: on fewer than four GPUs, on more


# SGLang 0.5, server_args.py. Neither for weights nor cache: 1.5 MiB a token of a step, 2 MiB a request of the largest
# graph, an eighth of a GiB a GPU; on large cards 10 GiB at least; and 2 GiB for a drafter.
_SGLANG_TIERS: Final = (
    _Tier(20, 2048, (8, 8)),
    _Tier(35, 2048, (24, 80)),
    _Tier(60, 4096, (32, 160)),
    _Tier(160, 8192, (256, 512)),
    _Tier(float("inf"), 16384, (512, 512)),
)
_SGLANG_MAX_RUNNING: Final = 2048  # at least; more only where the cache holds thousands of whole contexts
# SGLang 0.4: the fraction by the GPUs of one copy.
_SGLANG_0_4_FRACTIONS: Final[Mapping[int, float]] = {16: 0.79, 8: 0.81, 4: 0.85, 2: 0.87, 1: 0.88}
_LLAMA_CPP_UBATCH: Final = 512


def _batch_defaults(gpu: Gpu, name: str) -> tuple[int, int]:
    """Requests at once and tokens of a step of an engine's API server on that GPU."""
    total_gib = gpu.usable_gib
    if name == "llama.cpp":
        return 1, _LLAMA_CPP_UBATCH
    if name == "sglang":
        return _SGLANG_MAX_RUNNING, _sglang_tier(gpu).max_num_batched_tokens
    if total_gib >= 160:
        return 1024, 16384
    if total_gib >= 70 and "a100" not in gpu.name.lower():
        return 1024, 8192
    return 256, 2048


def _sglang_tier(gpu: Gpu) -> _Tier:
    return next(tier for tier in _SGLANG_TIERS if gpu.usable_gib < tier.below_gib)


def _default_utilization(
    gpu: Gpu, name: str, version: tuple[int, int], gpus: int, batched_tokens: int, drafter: str | None
) -> float:
    """The engine's default; vLLM raised it when it began to count its graphs."""
    if name == "llama.cpp":
        return 1.0
    if name == "vllm":
        return 0.92 if version >= _GRAPHS_COUNTED_SINCE else 0.9
    if version < (0, 5):
        return next(fraction for least, fraction in _SGLANG_0_4_FRACTIONS.items() if gpus >= least)
    total_mib = gpu.usable_gib * MIB_PER_GIB
    graphs = _sglang_tier(gpu).graphs_up_to[gpus >= 4]
    kept_mib = 512 + 1.5 * max(batched_tokens, 2048) + 2 * graphs + gpus / 8 * MIB_PER_GIB
    if gpu.usable_gib > 60:
        kept_mib = max(kept_mib, 10 * MIB_PER_GIB)
    kept_mib += 2 * MIB_PER_GIB if drafter else 0
    return max(0.0, round(1 - kept_mib / total_mib, 3))  # nothing, where the card has less than that
