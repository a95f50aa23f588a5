"""The NVIDIA GPUs of this machine as their driver reports them; a machine without any has an empty list."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

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
        total_gib=memory.total / 2**30,
        used_gib=memory.used / 2**30,
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
