"""GPUs: those that are known, and those of this machine."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from llmload.errors import ConfigError
from llmload.sizing.catalogue import read_data
from llmload.units import GB, GIB


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
