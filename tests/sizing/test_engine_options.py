"""What options of an engine do to the memory that is left, and that none is ignored."""

from typing import Any

import pytest

from benchmarks.trials.unseen_sizes import model_of, runs
from llmload.errors import ConfigError
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import load_model
from llmload.sizing.engine_command import command_line, engine_flags
from llmload.sizing.engine_pools import LlamaCppPool, SglangPool, VllmPool
from llmload.sizing.engines import FLAGS, EngineOptions
from llmload.sizing.families import model_from_config
from llmload.sizing.fit import DeploymentRequest, Fit, fit, plan_deployment
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.overhead import Estimate
from llmload.sizing.start_command import options_of
from llmload.units import GIB
from tests.sizing.test_families import BUILT

VALUES = EngineOptions(
    utilization=0.8,
    max_num_seqs=8,
    max_num_batched_tokens=1024,
    enforce_eager=True,
    prefix_caching=True,
    drafter="eagle",
    draft_tokens=4,
    max_loras=2,
    max_lora_rank=8,
    cpu_offload_gib=4.0,
    gpu_layers=16,
    cache_type="q8_0",
    ctx_size=65536,
    kv_unified=True,
)
INSTEAD = {("llama.cpp", "drafter"), ("llama.cpp", "draft_tokens"), ("llama.cpp", "ctx_size")}
"""Options that say something beside the others of the table: eagle, and the context of one slot."""
NEEDS = {"draft_tokens": ("drafter",), "max_lora_rank": ("max_loras",)}


def fitted(engine: str = "vllm", model: str = "Llama-3.1-8B-Instruct", count: int = 1, **options: Any) -> Fit:
    version = options.pop("version", None)
    return fit(
        plan_deployment(
            DeploymentRequest(
                model=load_model(model),
                gpu=find_gpu("A100-SXM4-40GB"),
                count=count,
                context_tokens=8192,
                engine=engine,
                engine_version=version,
                options=EngineOptions(**options),
            )
        )
    )


@pytest.mark.parametrize("engine", FLAGS)
@pytest.mark.parametrize("name", sorted(VALUES.given))
def test_an_option_moves_the_answer_or_is_refused(engine: str, name: str) -> None:
    asked = {each: getattr(VALUES, each) for each in (name, *NEEDS.get(name, ()))}
    if name not in FLAGS[engine]:
        with pytest.raises(ConfigError, match=f"{engine} with .*{name.replace('_', '-')}.* is not modelled"):
            fitted(engine, **asked)
        return
    if (engine, name) in INSTEAD:
        with pytest.raises(ConfigError, match=r"with mtp it is|give one of them"):
            fitted(engine, **asked)
        return
    if (engine, name) in {
        ("llama.cpp", "kv_unified"),
        ("vllm", "prefix_caching"),
        ("vllm", "draft_tokens"),
        ("sglang", "draft_tokens"),
    }:
        fitted(engine, **asked)  # moves only models with recurrent layers or windows
        return
    usual, changed = fitted(engine), fitted(engine, **asked)

    assert (usual.tightest.pool_bytes, usual.concurrency) != (changed.tightest.pool_bytes, changed.concurrency) or (
        engine in ("sglang", "llama.cpp") and name in ("max_num_seqs", "enforce_eager")  # beside the cache
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"drafter": "medusa"}, "drafter 'medusa' is not modelled; modelled: eagle, eagle3, mtp"),
        ({"draft_tokens": 4}, "--draft-tokens says nothing without --drafter"),
        ({"max_lora_rank": 64}, "--max-lora-rank says nothing without --max-loras"),
        ({"max_loras": 2, "model": "gpt-oss-20b"}, "LoRA slots are modelled for dense models"),
        ({"drafter": "eagle3", "model": "Qwen3-30B-A3B"}, "do not follow from its config"),
        ({"engine": "llama.cpp", "cache_type": "fp8"}, "cache type 'fp8' is not known for llama.cpp; known: f32, f16"),
        ({"drafter": "mtp"}, "has no layer for multi-token prediction"),
        ({"engine": "llama.cpp", "gpu_layers": 0}, "leaves no layer to the GPU"),
    ],
)
def test_what_cannot_be_derived_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        fitted(**options)


def test_llama_cpp_takes_the_type_of_its_cache_by_its_own_option() -> None:
    request = DeploymentRequest(model=load_model("Qwen3-8B"), gpu=find_gpu("L40S"), engine="llama.cpp", kv_dtype="fp32")
    with pytest.raises(ConfigError, match=r"llama.cpp takes --cache-type in place of --kv-dtype"):
        plan_deployment(request)


def llama_cpp(model: str, context_tokens: int | None = None, **options: Any) -> Fit:
    return fit(
        plan_deployment(
            DeploymentRequest(
                model=load_model(model), gpu=find_gpu("L40S"), engine="llama.cpp", context_tokens=context_tokens,
                options=EngineOptions(**options),
            )
        )
    )  # fmt: skip


def test_llama_cpps_context_is_divided_among_its_slots() -> None:
    whole = llama_cpp("gemma-3-12b-it", ctx_size=32768, max_num_seqs=4)

    assert whole.deployment.context_tokens == 8192
    assert whole == llama_cpp("gemma-3-12b-it", ctx_size=32768, max_num_seqs=4)
    assert whole.concurrency == llama_cpp("gemma-3-12b-it", 8192, max_num_seqs=4).concurrency
    assert "--ctx-size 32768" in command_line(engine_flags(whole))
    with pytest.raises(ConfigError, match="leaves 4 slots no token each"):
        llama_cpp("gemma-3-12b-it", ctx_size=3, max_num_seqs=4)


def test_slots_with_one_cache_share_the_step_behind_their_windows() -> None:
    found = llama_cpp("gemma-3-12b-it", 8192, max_num_seqs=4, kv_unified=True)
    pool = found.tightest.pool
    assert isinstance(pool, LlamaCppPool)
    layer = 2 * 8 * 256 * 2  # keys and values of 8 heads of 256, in 16 bits

    assert pool.slot_bytes(8192) == (8 * 8192 + 40 * 1024) * layer
    assert pool.shared_bytes == 40 * 512 * layer
    assert "--kv-unified" in engine_flags(found)


def test_lora_slots_and_weights_on_the_host_are_sglangs_too() -> None:
    usual = fitted("sglang").tightest
    slots = fitted("sglang", max_loras=4, max_lora_rank=32).tightest
    offloaded = fitted("sglang", cpu_offload_gib=4.0).tightest
    widths = 3 * 4096 + 4096 + 2 * 1024 + (4096 + 4096) + 2 * (4096 + 14336) + (14336 + 4096)

    assert slots.lora_bytes.best == 2 * 4 * 32 * 32 * widths
    assert usual.pool_bytes.best - slots.pool_bytes.best == slots.lora_bytes.best
    assert offloaded.pool_bytes.best - usual.pool_bytes.best == 4 * GIB


def test_a_start_command_says_what_moves_the_memory() -> None:
    command = "vllm serve X --max-num-seqs=64 --enforce-eager --swap-space 4 --max-num-batched-tokens many"

    assert options_of(command) == EngineOptions(max_num_seqs=64, enforce_eager=True)
    assert options_of("llama-server --n-gpu-layers 20 --cache-type-k q8_0") == EngineOptions(
        gpu_layers=20, cache_type="q8_0"
    )
    assert options_of("llama-server -ngl 20 -np 8 -ub 256 -ctk q4_0") == EngineOptions(
        gpu_layers=20, max_num_seqs=8, max_num_batched_tokens=256, cache_type="q4_0"
    )
    assert options_of("llama-server -c 32768 -np 4 -kvu") == EngineOptions(
        ctx_size=32768, max_num_seqs=4, kv_unified=True
    )
    assert options_of("llama-server --gpu-layers -1") == EngineOptions(), "all of them, as without it"
    assert options_of("vllm serve org/my_model --max_num_seqs=32 --gpu_memory_utilization inf") == EngineOptions(
        max_num_seqs=32
    )
    assert options_of("vllm serve 'X") == EngineOptions()


def test_an_eagle_drafter_has_a_layers_weights_and_one_layer_in_the_cache() -> None:
    found = fitted(drafter="eagle")
    pool, usual = found.tightest.pool, fitted().tightest.pool
    assert isinstance(pool, VllmPool)
    assert isinstance(usual, VllmPool)

    assert pool.blocks.block_bytes * 32 == usual.blocks.block_bytes * 33
    assert found.tightest.drafter_bytes.best == 2 * (218_112_000 + 4096 + 2 * 4096**2)  # a layer, a norm, 2 h -> h


def test_multi_token_prediction_has_one_more_of_the_last_layers() -> None:
    usual = fitted(model="DeepSeek-V3", count=8).tightest
    found = fitted(model="DeepSeek-V3", count=8, drafter="mtp").tightest
    assert isinstance(found.pool, VllmPool)
    assert isinstance(usual.pool, VllmPool)

    assert found.pool.blocks.block_bytes * 61 == usual.pool.blocks.block_bytes * 62
    assert found.drafter_bytes.best * 8 == pytest.approx(11.6e9, rel=0.08)  # 256 experts of 8 bits, and what is copied
    assert found.drafter_bytes.high > 2 * found.drafter_bytes.best


def test_recurrent_layers_take_two_states_where_prefixes_are_kept_and_the_low_estimate_takes_them() -> None:
    config = next(built["config"] for built in BUILT if built["config"]["model_type"] == "qwen3_next")
    model = model_from_config(HfConfig(config, "built"), "built")

    def held(version: str = "0.19", **options: Any) -> Estimate:
        request = DeploymentRequest(
            model=model, gpu=find_gpu("L40S"), context_tokens=4096, engine_version=version,
            options=EngineOptions(**options),
        )  # fmt: skip
        return fit(plan_deployment(request)).concurrency

    unsaid, without, kept = held(), held(prefix_caching=False), held(prefix_caching=True)
    assert kept.best < without.best == unsaid.best
    assert held("0.29").best == held("0.29", prefix_caching=True).best
    assert unsaid.low == kept.low < without.low


def test_vllm_0_19_without_kept_prefixes_holds_what_it_logged() -> None:
    model = model_of(next(run for run in runs("first") if run["model"] == "Qwen3.5-27B"))
    request = DeploymentRequest(
        model=model, gpu=find_gpu("H200"), engine_version="0.19",
        context_tokens=32768, options=EngineOptions(max_num_batched_tokens=16384),
    )  # fmt: skip
    pool = fit(plan_deployment(request)).tightest.pool
    assert isinstance(pool, VllmPool)

    assert pool.blocks.tokens(1487) == 290_864  # vllm-project/vllm issue 40691
    assert pool.requests(1487 * pool.blocks.block_bytes, 32768) == pytest.approx(33.04, abs=0.01)


def test_lora_slots_are_reserved_by_number_and_rank() -> None:
    two = fitted(version="0.8", max_loras=2).tightest.lora_bytes.best
    four = fitted(version="0.19", max_loras=4).tightest.lora_bytes.best
    wide = fitted(version="0.19", max_loras=2, max_lora_rank=32).tightest.lora_bytes.best

    assert two / GIB == pytest.approx(0.186, abs=0.01)  # vLLM 0.8.2 took 15.1749 GiB instead of 14.9889
    assert four == wide


def test_weights_on_the_host_are_not_on_the_gpu() -> None:
    found = fitted(cpu_offload_gib=8.0).tightest

    assert fitted().tightest.weights_bytes.best - found.weights_bytes.best == 8 * GIB
    assert fitted(cpu_offload_gib=99.0).tightest.weights_bytes.best == 0


def test_llama_cpp_has_the_last_layers_on_the_gpu_and_the_embedding_on_the_host() -> None:
    whole, half, all_but_head = (fitted("llama.cpp", gpu_layers=n).tightest.weights_bytes.best for n in (33, 16, 32))

    assert whole == pytest.approx(2 * (8_030_261_248 - 128_256 * 4096), rel=0.01)
    assert whole - all_but_head == pytest.approx(2 * 128_256 * 4096, rel=0.01)
    assert half == pytest.approx(all_but_head / 2, rel=0.01)


def test_llama_cpp_splits_layers_and_has_to_hold_every_slot() -> None:
    found = fitted("llama.cpp", count=2, max_num_seqs=4, cache_type="q8_0")

    assert found.deployment.parallelism.pipeline == 2
    assert found.wanted == 4
    assert " ".join(engine_flags(found)) == (
        "llama-server --hf-repo meta-llama/Llama-3.1-8B-Instruct --ctx-size 32768 --parallel 4 --ubatch-size 512 "
        "--cache-type-k q8_0 --cache-type-v q8_0"
    )


def test_sglang_keeps_windows_in_a_smaller_pool() -> None:
    older, newer = (fitted("sglang", "gemma-3-12b-it", version=v).tightest.pool for v in ("0.4", "0.5"))
    assert isinstance(older, SglangPool)
    assert isinstance(newer, SglangPool)
    whole, windows = 8, 40

    assert newer.token_bytes / older.token_bytes == pytest.approx((whole + 0.8 * windows) / (whole + windows))
