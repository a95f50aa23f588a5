"""What engines say about their memory, as they really wrote it; the vLLM 0.32 logs are of a real engine on a CPU."""

from pathlib import Path

import pytest

from llmload.errors import ConfigError
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import load_model, load_served
from llmload.sizing.engine_log import Comparison, EngineFacts, compare, log_weight_format, read_engine
from llmload.sizing.text import comparison_text

FIXTURES = Path(__file__).parent / "fixtures"


def facts(name: str) -> EngineFacts:
    return read_engine((FIXTURES / name).read_text())


def rows_of(name: str, model: ModelSpec) -> dict[str, Comparison]:
    return {row.quantity: row for row in compare(facts(name), model)}


@pytest.mark.parametrize("name", ["vllm-0.32-cpu-smollm2", "vllm-0.32-cpu-tiny-tp2"])
def test_a_real_vllm_on_cpu_agrees_with_the_estimate_from_its_own_settings(name: str) -> None:
    model = load_model(str(FIXTURES / name.split("-")[3]))
    ranks = facts(f"{name}.log").tensor_parallel
    log = rows_of(f"{name}.log", model)
    metrics = {row.quantity: row for row in compare(facts(f"{name}.metrics"), model, tensor_parallel=ranks)}

    assert log["checkpoint_gib"].agrees(2)
    assert metrics["blocks"].logged == metrics["blocks"].estimated
    assert log["tokens"].logged == log["tokens"].estimated
    assert log["concurrency"].logged == log["concurrency"].estimated


def test_the_one_line_wording_of_vllm_0_32_and_its_settings() -> None:
    found = facts("vllm-0.32-cpu-tiny-tp2.log")

    assert (found.engine, found.version, found.on_cpu) == ("vllm", "0.32.0", True)
    assert (found.tensor_parallel, found.pipeline_parallel, found.max_num_seqs) == (2, 1, 16)
    assert (found.max_model_len_tokens, found.tokens, found.concurrency) == (2048, 2_097_152, 1024.0)
    assert (found.pool_gib, found.dtype, found.quantization, found.one_line_tokens) == (1.0, "bfloat16", None, True)


def test_the_two_line_wording_of_v1() -> None:
    found = facts("vllm-0.8-v1-pr-17122.log")

    assert found == EngineFacts(
        engine="vllm", weights_gib=14.9889, tokens=158_656, concurrency=4.84, max_model_len_tokens=32768
    )
    assert rows_of("vllm-0.8-v1-pr-17122.log", load_model("Llama-3.1-8B-Instruct"))["weights_gib"].agrees(0.01)


def test_the_wordings_of_v0() -> None:
    old = facts("vllm-0.6-issue-10517.log")
    table = facts("vllm-0.6-pr-10511.log")
    ranks = facts("vllm-0.7-v0-pr-14447.log")

    assert (old.weights_gib, old.pool_gib, old.blocks, old.utilization) == (14.9888, 2.89, 1478, 0.9)
    assert (old.gpu_total_gib, old.non_torch_gib, old.max_model_len_tokens) == (23.58, 0.35, 29000)
    assert (table.gpu_total_gib, table.weights_gib, table.non_torch_gib, table.activation_gib) == (
        79.22, 7.48, 3.58, 1.26,
    )  # fmt: skip
    assert (ranks.weights_gib, ranks.activation_gib, ranks.pool_gib, ranks.utilization) == (21.21, 0.37, 1.57, 0.99)


def test_the_blocks_of_a_v0_log_follow_from_its_pool() -> None:
    rows = rows_of("vllm-0.6-issue-10517.log", load_model("Llama-3.1-8B-Instruct"))

    assert rows["weights_gib"].agrees(0.1)
    assert rows["blocks"].agrees(0.2)
    assert rows["concurrency"].agrees(0.6)


def test_sglang_logs_keys_and_values_apart_or_latents_together() -> None:
    heads = facts("sglang-issue-12726.log")
    latent = facts("sglang-mla.log")

    assert (heads.engine, heads.tokens, heads.pool_gib, heads.max_model_len_tokens) == ("sglang", 421_472, 57.88, 40960)
    assert (latent.weights_gib, latent.tokens, latent.pool_gib) == (28.79, 383_872, 19.36)
    assert rows_of("sglang-issue-12726.log", load_model("Qwen3-8B"))["tokens"].agrees(0.1)


def test_a_log_with_the_gpus_memory_has_its_pool_estimated_too() -> None:
    text = """
(APIServer pid=1) version 0.19.0
non-default args: {'model': 'meta-llama/Llama-3.1-8B-Instruct', 'gpu_memory_utilization': 0.95}
Initializing a V1 LLM engine (v0.19.0) with config: model='meta-llama/Llama-3.1-8B-Instruct', dtype=torch.bfloat16, \
max_seq_len=8192, tensor_parallel_size=1, pipeline_parallel_size=1, quantization=None, kv_cache_dtype=auto
Free memory on device (78.68/79.19 GiB) on startup
Model loading took 14.99 GiB memory and 3 seconds
Available KV cache memory: 58.11 GiB
GPU KV cache size: 476,016 tokens
Maximum concurrency for 8,192 tokens per request: 58.11x
"""
    found = read_engine(text)
    rows = {row.quantity: row for row in compare(found, load_served(found.model), find_gpu("H100-SXM5"))}

    assert all(rows[name].agrees(0.2) for name in ("weights_gib", "pool_gib", "tokens", "concurrency"))
    assert rows["blocks"].logged is None
    assert "pool_gib                      58.11        58.11" in comparison_text(found, list(rows.values()))


def test_quantisations_are_taken_from_the_log_then_from_the_config() -> None:
    plain = load_model("Llama-3.1-8B-Instruct")

    assert log_weight_format(EngineFacts(engine="vllm", quantization="gptq_marlin"), plain) == "w4a16"
    assert log_weight_format(EngineFacts(engine="vllm", dtype="float32"), plain) == "fp32"
    assert log_weight_format(EngineFacts(engine="vllm"), load_model("gpt-oss-20b")) == "mxfp4"
    with pytest.raises(ConfigError, match="quantization=compressed-tensors may be several formats"):
        log_weight_format(EngineFacts(engine="vllm", quantization="compressed-tensors"), plain)


def test_a_text_without_facts_is_refused_and_a_log_without_model_needs_one() -> None:
    with pytest.raises(ConfigError, match="neither a start-up log nor /metrics"):
        read_engine("hello\nworld")
    with pytest.raises(ConfigError, match="give --model"):
        load_served(None)
