"""The cards and how they are found."""

import pytest

from llmload.errors import ConfigError
from llmload.sizing.engine_memory import find_gpu, gpus
from llmload.sizing.text import gpus_text


def test_cuda_reports_less_than_the_name_says() -> None:
    h100 = find_gpu("H100-SXM5-80GB")

    assert (h100.nominal_gb, h100.total_gib) == (80, 79.19)
    assert all(gpu.total_gib < gpu.nominal_gb for gpu in gpus() if gpu.total_gib is not None)


def test_a_unique_beginning_finds_a_gpu_in_any_case() -> None:
    assert find_gpu("h200").name == "H200-SXM-141GB"
    assert find_gpu("l4-").name == "L4-24GB"


def test_an_ambiguous_name_names_the_choices_and_an_unknown_one_the_list() -> None:
    with pytest.raises(ConfigError, match="'A100' may be A100-SXM4-40GB or A100-SXM4-80GB"):
        find_gpu("A100")
    with pytest.raises(ConfigError, match="'Z80' is not known; `llmload vram gpus`"):
        find_gpu("Z80")


def test_an_unknown_memory_is_a_dash_and_not_zero() -> None:
    line = next(line for line in gpus_text(gpus()).splitlines() if line.startswith("A10G"))

    assert line.split() == ["A10G-24GB", "-", "600", "70", "0"]


def test_names_are_unique_and_each_gpu_has_a_source() -> None:
    assert len({gpu.name.lower() for gpu in gpus()}) == len(gpus())
    assert all(gpu.source for gpu in gpus())
