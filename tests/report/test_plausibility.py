"""A speed is compared with the GPU's memory bandwidth, a load with its memory."""

from typing import Any

import pytest

from llmload.cli.scenarios import scenario_file
from llmload.report.figures import engine_rows
from llmload.runs.build_summary import bandwidth_use, gpu_warning, memory_estimate, memory_warning
from llmload.scenario import load_scenario
from tests.run_files import summary_of


def scenario(name: str, **overrides: Any) -> Any:
    return load_scenario(scenario_file(f"reference/{name}"), overrides)


def test_the_reference_speeds_are_fractions_of_their_bounds() -> None:
    slow = bandwidth_use(scenario("vllm-vicuna-7b-v1.3-speed"), 41.14)
    usual = bandwidth_use(scenario("vllm-llama2-70b-chat-speed"), 17.00)

    assert slow is not None
    assert usual is not None
    assert slow.mbu == pytest.approx(0.267, abs=0.005)  # where its neighbours have 55 to 61 %
    assert 0.5 < usual.mbu < 0.62


def test_a_speed_beyond_the_bandwidth_is_implausible() -> None:
    impossible = bandwidth_use(scenario("vllm-vicuna-7b-v1.3-speed"), 400.0)

    assert impossible is not None
    assert impossible.mbu > 1
    assert "faster than the weights can be read" in str(impossible.implausible)


@pytest.mark.parametrize(
    "unknown",
    [{"deployment.gpu": "Nonesuch 1"}, {"model.name": "x", "model.served_as": "x"}, {"load.users": 2}],
)
def test_a_gpu_or_model_outside_the_catalogue_is_unknown(unknown: dict[str, Any]) -> None:
    assert bandwidth_use(scenario("vllm-vicuna-7b-v1.3-speed", **unknown), 41.14) is None


@pytest.mark.parametrize(("gpu", "why"), [("Nonesuch 1", "'Nonesuch 1' is not known"), ("V100", "V100-SXM2-16GB")])
def test_a_gpu_whose_name_tells_no_card_is_said(gpu: str, why: str) -> None:
    said = str(gpu_warning(scenario("vllm-vicuna-7b-v1.3-speed", **{"deployment.gpu": gpu})))

    assert said.startswith("no MBU and no memory estimate: deployment.gpu: ")
    assert why in said
    assert "--gpu-memory-gib" not in said, "an option of llmload vram, and of no scenario"
    assert gpu_warning(scenario("vllm-vicuna-7b-v1.3-speed")) is None
    assert ("GPU", said) in engine_rows(summary_of(gpu_warning=said)), "in the terminal, in Markdown and in HTML"
    assert not [title for title, _ in engine_rows(summary_of()) if title == "GPU"]


def test_a_load_beyond_the_kv_cache_gives_a_warning() -> None:
    small = scenario("vllm-llama2-70b-chat-speed")
    large = scenario("vllm-llama2-70b-chat-throughput", **{"load.users": 512})

    assert "512 users x 4,000 tokens are 2,048,000 tokens of KV cache" in str(memory_warning(large, 4000))
    assert memory_warning(small, 600) is None


def test_the_memory_estimate_fills_the_engines_share_of_the_gpu() -> None:
    parts = memory_estimate(scenario("vllm-vicuna-7b-v1.3-speed"))

    assert parts is not None
    assert parts["weights"] / 2**30 == pytest.approx(12.6, abs=0.2)  # 6.74e9 parameters of two bytes
    assert 70 < sum(parts.values()) / 2**30 < 80
    assert memory_estimate(scenario("vllm-vicuna-7b-v1.3-speed", **{"deployment.gpu": "Nonesuch 1"})) is None


def test_the_estimate_follows_the_command_that_starts_the_engine() -> None:
    def started_by(command: str) -> float | None:
        parts = memory_estimate(scenario("vllm-vicuna-7b-v1.3-speed", **{"deployment.command": command}))
        return sum(parts.values()) / 2**30 if parts else None

    assert started_by("vllm serve lmsys/vicuna-7b-v1.3 --gpu-memory-utilization=0.5") == pytest.approx(39.6, abs=0.1)
    assert started_by("python -m sglang.launch_server --mem-fraction-static 0.7") == pytest.approx(55.4, abs=0.1)
    assert started_by("llama-server -m vicuna.gguf") == pytest.approx(79.15, abs=0.01)
    assert started_by("text-generation-launcher --model-id lmsys/vicuna-7b-v1.3") is None  # not modelled


def test_weights_that_do_not_fit_give_no_estimate() -> None:
    one_card = {"deployment.gpus": 1, "deployment.tensor_parallel": 1}

    assert memory_estimate(scenario("vllm-llama2-70b-chat-speed", **one_card)) is None
