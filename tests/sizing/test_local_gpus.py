"""The GPUs of this machine, through a stand-in for NVIDIA's library: what it reports is known, no GPU is needed."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmload.sizing.cards import local_gpus
from llmload.sizing.text import local_gpus_text

GIB = 2**30


class NvmlError(Exception):
    """As NVML raises it."""


def library(**changes: Any) -> ModuleType:
    nvml = ModuleType("pynvml")

    def link_state(handle: int, link: int) -> int:
        if link >= 12:
            raise NvmlError
        return 1

    calls: dict[str, Any] = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda _: b"NVIDIA A100-SXM4-80GB",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80 * GIB, used=GIB // 2),
        "nvmlDeviceGetNvLinkState": link_state,
        "nvmlSystemGetDriverVersion": lambda: "570.86",
    }
    for name, call in (calls | changes).items():
        setattr(nvml, name, call)
    return nvml


def test_names_memory_and_links_are_as_the_driver_reports_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    first, second = local_gpus()

    assert (first.name, first.total_gib, first.used_gib, first.nvlinks) == ("NVIDIA A100-SXM4-80GB", 80.0, 0.5, 12)
    assert (second.index, second.driver) == (1, "570.86")
    assert "NVIDIA A100-SXM4-80GB" in local_gpus_text([first, second])


def test_a_machine_without_library_driver_or_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise NvmlError

    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert local_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlInit=fails))
    assert local_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlDeviceGetCount=fails))
    assert local_gpus() == []
    assert local_gpus_text([]).startswith("No NVIDIA GPU")
