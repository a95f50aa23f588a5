"""The NVIDIA GPUs of this machine as their driver reports them; a machine without any has an empty list."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from llmload.errors import ConfigError
from llmload.sizing.catalogue import read_data
from llmload.units import GB, GIB

# Graphics cards: the memory that engines can have of them, and how fast they read it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of card; None is unknown. Memory is in GiB as CUDA reports it, nominal_gb is what its name says."""

    name: str
    nominal_gb: int
    total_gib: float | None
    bandwidth_gb_per_s: int  # 10^9 bytes a second
    tensor_16bit_tflops: int | None  # dense
    nvlink_gb_per_s: int | None  # both directions; 0: it has none
    source: str

    @property
    def usable_gib(self) -> float:
        """Memory in GiB that engines see; where nobody has reported it, 97 % of the name's GB, which has been less."""
        return self.total_gib if self.total_gib is not None else self.nominal_gb * GB / GIB * 0.97


def gpus() -> list[Gpu]:
    """The cards that ship with llmload, in the order of gpus.json."""
    return [Gpu(**entry) for entry in read_data("gpus.json")["gpus"]]


def find_gpu(name: str) -> Gpu:
    """
    The card whose name is, or alone begins with, the given one, whatever its case; L4 is L4-24GB and not L40S.

    Raises ConfigError when there is none, or more than one.
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


def gpus_text(cards: Sequence[Gpu]) -> str:
    """The cards as a table for people; a dash is unknown."""
    header = f"{'GPU':<20}{'memory GiB':>12}{'GB/s':>8}{'TFLOPS':>8}{'NVLink GB/s':>13}"
    return "\n".join([header, *(_line(gpu) for gpu in cards)])


def _line(gpu: Gpu) -> str:
    memory = "-" if gpu.total_gib is None else f"{gpu.total_gib:.2f}"
    speed, link = ("-" if value is None else str(value) for value in (gpu.tensor_16bit_tflops, gpu.nvlink_gb_per_s))
    return f"{gpu.name:<20}{memory:>12}{gpu.bandwidth_gb_per_s:>8}{speed:>8}{link:>13}"


_LINKS = 18  # NVML's NVLINK_MAX_LINKS


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGpu:
    """One GPU of this machine; total_gib is what the driver reports, which CUDA sees all but a little of."""

    index: int
    name: str
    total_gib: float
    used_gib: float
    driver: str
    nvlinks: int  # links that are up; 0 where there are none


def local_gpus() -> list[LocalGpu]:
    """The GPUs of this machine, by NVML; empty without nvidia-ml-py, without a driver or without a GPU."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - NVML's errors are only known once it is there; none of them is an error here
        return []
    try:
        return [_describe(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def local_gpus_text(gpus: Sequence[LocalGpu]) -> str:
    """The GPUs for people, a line each."""
    if not gpus:
        return "No NVIDIA GPU is reported on this machine (nvidia-ml-py and a driver are needed to see one)."
    lines = [f"{'#':<3}{'GPU':<34}{'GiB':>9}{'used':>9}{'NVLinks':>9}"]
    lines += [f"{gpu.index:<3}{gpu.name:<34}{gpu.total_gib:>9.2f}{gpu.used_gib:>9.2f}{gpu.nvlinks:>9}" for gpu in gpus]
    return "\n".join([*lines, f"driver {gpus[0].driver}"])


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
