"""The cards and how they are found."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from llmload.errors import ConfigError
from llmload.sizing.cards import chosen_gpu, find_gpu, gpus
from llmload.sizing.text import gpus_text
from llmload.units import GB, GIB


def test_cuda_reports_less_than_the_name_says() -> None:
    h100 = find_gpu("H100-SXM5-80GB")

    assert (h100.nominal_gb, h100.total_gib) == (80, 79.19)
    assert all((gpu.total_gib or 0) < 1.01 * (gpu.nominal_gb or 0) for gpu in gpus())


@pytest.mark.parametrize(
    ("written", "card", "total_gib"),
    [
        ("H20", "H20-96GB", 95.0),  # was taken for an H200
        ("H20-3e", "H20-141GB", None),
        ("h200", "H200-SXM-141GB", 139.7),
        ("L40", "L40-48GB", 44.4),  # was taken for an L40S
        ("L4", "L4-24GB", 22.03),
        ("A10", "A10-24GB", 22.06),
        ("A10G", "A10G-24GB", 22.06),
        ("B300", "B300-288GB", 267.68),
        ("GB300", "GB300-288GB", 276.5),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB", 79.19),  # as drivers write them
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB", 79.11),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB", 79.15),
        ("NVIDIA GeForce RTX 4090", "RTX-4090-24GB", 23.51),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada-48GB", 47.36),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000-96GB", 94.97),
        ("Tesla T4", "T4-16GB", 14.56),
        ("AMD Instinct MI300X", "MI300X-192GB", 191.98),
        ("MI355X", "MI355X-288GB", 287.98),
        ("TPU v6e", "TPU-v6e-32GB", 31.25),
        ("thor", "Jetson-AGX-Thor-128GB", 122.8),
    ],
)
def test_a_card_is_found_by_its_name_or_an_alias(written: str, card: str, total_gib: float | None) -> None:
    assert (find_gpu(written).name, find_gpu(written).total_gib) == (card, total_gib)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("V100", "'V100' is not one card but V100-SXM2-16GB or V100-SXM2-32GB or V100-PCIE-16GB or V100-PCIE-32GB"),
        ("MI300", "'MI300' is not one card but MI300A-128GB or MI300X-192GB: give the whole name"),
        ("RTX-6000", "not one card but RTX-PRO-6000-96GB or RTX-6000-Ada-48GB or Quadro-RTX-6000-24GB"),
        ("H100", "not one card but H100-SXM5-80GB or H100-PCIe-80GB or H100-NVL-94GB"),
        ("A100-80GB", "not one card but A100-SXM4-80GB or A100-PCIE-80GB"),
        ("GH200-4", "'GH200-4' is not known; near it: GH200"),
        ("MI350", "'MI350' is not known; near it: MI350X-288GB; `llmload vram gpus`"),
        ("H21", "'H21' is not known; near it: H20-96GB"),
        ("", "'' is not known; `llmload vram gpus` lists those that are"),
    ],
)
def test_any_other_name_is_refused_with_what_it_may_mean(written: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(answer)):
        find_gpu(written)


def test_a_beginning_of_a_name_finds_no_card() -> None:
    """Cards by prefix took H20 for H200; an alias is the only short name."""
    for gpu in gpus():
        for name in (gpu.name, *gpu.aliases):
            for end in range(1, len(name)):
                try:
                    found = find_gpu(name[:end])
                except ConfigError:
                    continue
                assert {name[:end].lower().strip("-")} & {known.lower() for known in (found.name, *found.aliases)}


def test_a_mig_slice_has_its_own_memory_and_a_part_of_bandwidth_and_speed() -> None:
    part = find_gpu("NVIDIA A100-SXM4-80GB MIG 3g.40gb")

    assert (part.name, part.total_gib) == ("A100-SXM4-80GB-MIG-3g.40gb", 39.25)
    assert part.bandwidth_gb_per_s == 2039 / 2
    assert part.tensor_16bit_tflops == pytest.approx(312 * 3 / 7)
    assert find_gpu("A100-SXM4-80GB-1g.10gb").bandwidth_gb_per_s == 2039 / 8
    with pytest.raises(ConfigError, match=r"'5g.50gb' of A100-SXM4-80GB is not known; known: 1g.10gb, 1g.20gb"):
        find_gpu("A100-SXM4-80GB MIG 5g.50gb")
    with pytest.raises(ConfigError, match=r"'1g.10gb' of L40S-48GB is not known\Z"):
        find_gpu("L40S MIG 1g.10gb")


def test_memory_and_bandwidth_that_are_given_replace_what_is_known_or_describe_another_card() -> None:
    with pytest.raises(ConfigError, match="--gpu-memory-gib takes any"):
        chosen_gpu("V100")
    assert chosen_gpu("A10G", 22.19) == replace(find_gpu("A10G"), total_gib=22.19)
    assert chosen_gpu("A10G", bandwidth_gb_per_s=500).bandwidth_gb_per_s == 500
    other = chosen_gpu("Z80", 60.0, 1200.0)
    assert (other.name, other.total_gib, other.bandwidth_gb_per_s, other.tensor_16bit_tflops) == ("Z80", 60, 1200, None)
    assert (chosen_gpu(None, 60.0).usable_gib, chosen_gpu(None, 60.0).bandwidth_gb_per_s) == (60, None)
    with pytest.raises(ConfigError, match="no GPU is given: --gpu NAME, or --gpu-memory-gib"):
        chosen_gpu(None)
    with pytest.raises(ConfigError, match="the memory of GPU as described is not known: give --gpu-memory-gib"):
        _ = chosen_gpu(None, bandwidth_gb_per_s=1200).usable_gib
    with pytest.raises(ConfigError, match="'H21' is not known"):
        chosen_gpu("H21")


def test_an_unknown_memory_is_a_dash_and_not_zero() -> None:
    line = next(line for line in gpus_text(gpus()).splitlines() if line.startswith("A16-"))

    assert line.split() == ["A16-16GB", "-", "200", "-", "0"]


def test_names_are_unique_and_each_gpu_has_a_source() -> None:
    written = [name.lower() for gpu in gpus() for name in (gpu.name, *gpu.aliases)]

    assert len(set(written)) == len(written)
    assert all(gpu.source and gpu.vendor for gpu in gpus())


def test_the_page_on_sizing_says_of_how_many_cards_the_figures_have_one_source() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text(encoding="utf-8")
    unconfirmed = [gpu for gpu in gpus() if "not confirmed" in gpu.source]

    assert f"For {len(unconfirmed)} of the {len(gpus())} cards no second source was found" in page


def test_97_percent_of_a_names_memory_is_less_than_any_card_reported() -> None:
    assert all(gpu.total_gib is None or gpu.total_gib * GIB > 0.97 * (gpu.nominal_gb or 0) * GB for gpu in gpus())
