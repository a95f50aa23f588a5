"""GPUs and their like: those that llmload knows, found by exact name, those that a user describes, this machine's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any

from llmload.errors import ConfigError
from llmload.sizing.catalogue import read_data
from llmload.units import GB, GIB

_NOMINAL_SHARE = 0.97  # of the decimal gigabytes in a name: less than any card has reported


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU model; None is unknown. Memory is in GiB as CUDA reports it, nominal_gb is that of its name."""

    name: str
    vendor: str | None = None
    aliases: tuple[str, ...] = ()
    nominal_gb: int | None
    total_gib: float | None
    bandwidth_gb_per_s: float | None  # 10^9 bytes a second
    tensor_16bit_tflops: float | None  # dense
    nvlink_gb_per_s: int | None  # both directions; 0: it has none
    gpus_per_node: int = 8  # GPUs that reach each other without a network
    mig: Mapping[str, float] = field(default_factory=dict, hash=False)  # GiB of a slice by its profile
    source: str
    is_slice: bool = False  # of a card, by MIG: engines do not join several

    @property
    def usable_gib(self) -> float:
        """
        Memory in GiB that engines see; where unknown, 97 % of the name's GB, less than any GPU reported.

        Raises ConfigError where the name's is not known either.
        """
        if self.total_gib is not None:
            return self.total_gib
        if self.nominal_gb is None:
            raise ConfigError(f"the memory of {self.name} is not known: give --gpu-memory-gib")
        return self.nominal_gb * GB / GIB * _NOMINAL_SHARE


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPU models that ship with llmload, in the order of gpus.json."""
    return tuple(Gpu(**{**entry, "aliases": tuple(entry["aliases"])}) for entry in read_data("gpus.json")["gpus"])


def find_gpu(name: str) -> Gpu:
    """
    Return the GPU with that name or alias, in any case, as a vendor or a driver writes it; never one of a similar name.

    A MIG slice is the card's name and its profile: "H100-SXM5-80GB MIG 3g.40gb". Raises ConfigError for any other name,
    with those that it may mean or that are near it.
    """
    wanted, profile = _card_and_profile(_words(name))
    gpu = _by_words().get(wanted)
    if gpu is None:
        raise ConfigError(_not_found(name, wanted))
    return gpu if profile is None else _slice(gpu, profile)


def chosen_gpu(name: str | None, memory_gib: float | None = None, bandwidth_gb_per_s: float | None = None) -> Gpu:
    """
    Return a known GPU, with the memory and bandwidth that a user gives in their place; or one that only they describe.

    Raises ConfigError for a name that is not known and of which neither is given.
    """
    described = memory_gib is not None or bandwidth_gb_per_s is not None
    if name is None and not described:
        raise ConfigError("no GPU is given: --gpu NAME, or --gpu-memory-gib and --gpu-bandwidth for any other")
    try:
        known = find_gpu(name or "")
    except ConfigError as error:
        if not described:
            raise ConfigError(f"{error}; --gpu-memory-gib takes any") from None
        known = Gpu(
            name=name or "GPU as described",
            nominal_gb=None,
            total_gib=None,
            bandwidth_gb_per_s=None,
            tensor_16bit_tflops=None,
            nvlink_gb_per_s=None,
            source="as given",
        )
    return replace(
        known,
        total_gib=known.total_gib if memory_gib is None else memory_gib,
        bandwidth_gb_per_s=known.bandwidth_gb_per_s if bandwidth_gb_per_s is None else bandwidth_gb_per_s,
    )


# Words that a vendor or a driver puts into a name and that tell no card from another.
_NOT_TELLING = {"nvidia", "amd", "intel", "google", "instinct", "tesla", "geforce", "radeon", "habana", "cloud"}
_PROFILE = re.compile(r"\d+g\.\d+gb")


def _words(name: str) -> tuple[str, ...]:
    words = re.findall(r"[a-z0-9.]+", name.lower().replace("(tm)", "").replace("(r)", ""))
    return tuple(word for word in words if word not in _NOT_TELLING)


def _card_and_profile(words: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    if not words or not _PROFILE.fullmatch(words[-1]):
        return words, None
    return tuple(word for word in words[:-1] if word != "mig"), words[-1]


@cache
def _by_words() -> Mapping[tuple[str, ...], Gpu]:
    return {_words(name): gpu for gpu in gpus() for name in (gpu.name, *gpu.aliases)}


def _slice(gpu: Gpu, profile: str) -> Gpu:
    """A MIG slice has its own memory, eighths of the bandwidth and sevenths of the speed (NVIDIA's MIG user guide)."""
    if profile not in gpu.mig:
        known = ", ".join(gpu.mig)
        raise ConfigError(f"MIG slice {profile!r} of {gpu.name} is not known" + (f"; known: {known}" if known else ""))
    sevenths, nominal = (int(number) for number in re.findall(r"\d+", profile))
    eighths = min(8, round(8 * gpu.mig[profile] / gpu.usable_gib))
    speed, bandwidth = gpu.tensor_16bit_tflops, gpu.bandwidth_gb_per_s
    return replace(
        gpu,
        name=f"{gpu.name}-MIG-{profile}",
        aliases=(),
        nominal_gb=nominal,
        total_gib=gpu.mig[profile],
        bandwidth_gb_per_s=None if bandwidth is None else bandwidth * eighths / 8,
        tensor_16bit_tflops=None if speed is None else speed * sevenths / 7,
        nvlink_gb_per_s=0,
        gpus_per_node=1,
        mig={},
        is_slice=True,
    )


def _not_found(name: str, wanted: tuple[str, ...]) -> str:
    meant = [gpu.name for gpu in gpus() if wanted and set(wanted) <= set(_words(gpu.name))]
    if not meant:
        start = "-".join(wanted)
        meant = [gpu.name for gpu in gpus() if start and "-".join(_words(gpu.name)).startswith(start)]
    if len(meant) > 1:
        return f"GPU {name!r} is not one card but {' or '.join(meant)}: give the whole name"
    from difflib import get_close_matches  # only an error needs it

    names = {"-".join(words): gpu.name for words, gpu in _by_words().items()}
    near = meant or dict.fromkeys(names[key] for key in get_close_matches("-".join(wanted), names, n=4, cutoff=0.4))
    hint = f"; near it: {', '.join(near)}" if near else ""
    return f"GPU {name!r} is not known{hint}; `llmload vram gpus` lists those that are"


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
