"""Numbers that engines printed and tables published, each derived from a config by what its entry gives."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmload.sizing.architecture import ModelSpec
from llmload.sizing.block_pool import BlockPool, block_pool
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import catalogue, load_model
from llmload.sizing.engines import EngineOptions, engine_for
from llmload.sizing.families import model_from_config
from llmload.sizing.fit import Deployment, Fit, fit, rank_weights
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache
from llmload.sizing.parallelism import Parallelism
from llmload.sizing.parameters import count_parameters
from llmload.sizing.weights import WEIGHT_FORMATS, weights_bytes

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden.json").read_text())["entries"]
GIB = 2**30

# The config of a published name; a dict is the config itself.
GPT2_XL = {"model_type": "gpt2", "vocab_size": 50257, "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024}
NAMES: Mapping[str, str | dict[str, Any]] = {
    "Meta-Llama-3-8B": "Llama-3-8B-Instruct",
    "Meta-Llama-3-8B-Instruct": "Llama-3-8B-Instruct",
    "Mixtral-8x7B": "Mixtral-8x7B-Instruct-v0.1",
    "Llama-3.1-405B": "Llama-3.1-405B-Instruct",
    "Qwen2.5-3B": "Qwen2.5-3B-Instruct",
    "Qwen3-30B-A3B?": "Qwen3-30B-A3B",
    "CodeLlama-7b-hf": "llama-2-7b",
    "Llama-3.3-70B-Instruct-fp8-dynamic": "Llama-3.3-70B-Instruct",
    "Qwen2.5-7B-Instruct-fp8-dynamic": "Qwen2.5-7B-Instruct",
    "Meta-Llama-3.1-8B-Instruct-quantized.w4a16": "Llama-3.1-8B-Instruct",
    "Mistral-Small-3.1-24B-Instruct-2503": "Mistral-Small-24B-Instruct-2501",
    "gpt2xl": GPT2_XL,
    "llama3_8b": "Llama-3-8B-Instruct",
    "deepseek_v3": "DeepSeek-V3",
    "Mistral-Small-4-119B-2603": {  # Mistral4Config of Transformers 5.23: its defaults are this model
        "model_type": "mistral4",
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "kv_lora_rank": 256,
        "q_lora_rank": 1024,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "qk_nope_head_dim": 64,
        "num_experts_per_tok": 4,
        "first_k_dense_replace": 0,
        "max_position_embeddings": 1048576,
        "tie_word_embeddings": False,
    },
}
KV_ONLY = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 64,
    "max_position_embeddings": 131072,
}

GEOMETRY = {"num_hidden_layers": "kv_layers", "num_key_value_heads": "kv_heads", "head_dim": "head_dim"}
"""Keys of a config, and those of an entry."""


def model_of(given: Mapping[str, Any], name: str | None = None) -> ModelSpec:
    """The model an entry means: by its geometry where it gives one, else by its name, with what it overrides."""
    name = (name or given.get("model", "")).rpartition("/")[2]
    stated = re.search(r"\((?P<kv_layers>\d+) layers, (?P<kv_heads>\d+) KV heads x (?P<head_dim>\d+)\)", name)
    geometry = given if stated is None else stated.groupdict()
    if geometry.get("kv_layers") is not None:
        sizes = {key: int(geometry[size]) for key, size in GEOMETRY.items()}
        return model_from_config(HfConfig({**KV_ONLY, **sizes}, "entry"), "geometry")
    known = NAMES.get(name, name)
    config = known if isinstance(known, dict) else dict(catalogue()[known.lower()]["config"])
    overrides = {key: given[key] for key in ("num_key_value_heads",) if key in given}
    return (
        model_from_config(HfConfig({**config, **overrides}, "entry"), name)
        if overrides or known is config
        else (load_model(str(known)))
    )


def pool_of(given: Mapping[str, Any]) -> BlockPool:
    width = KV_ELEMENT_BYTES[given.get("kv_dtype", "bf16")]
    return block_pool(KvCache(model=model_of(given), element_bytes=width, tensor_parallel=given.get("tp", 1)))


def blocks_of(given: Mapping[str, Any]) -> int:
    return pool_of(given).blocks(round(given["pool_gib"] * GIB))


def concurrency(given: Mapping[str, Any]) -> float:
    return pool_of(given).max_concurrency(
        blocks_of(given), given["max_model_len"], given.get("max_num_batched_tokens", 2048)
    )


def sequence_gib(given: Mapping[str, Any], tokens: int) -> float:
    return KvCache(model=model_of(given)).sequence_bytes(tokens) / GIB


def longest(given: Mapping[str, Any]) -> int:
    pool, blocks = pool_of(given), blocks_of(given)
    return max(n for n in range(0, given["max_model_len"], 16) if pool.blocks_per_request(n, 2048) <= blocks)


def fit_of(given: Mapping[str, Any]) -> Fit:
    gpu = replace(find_gpu("H100-SXM5-80GB"), total_gib=given["total_gib"])
    parallelism = Parallelism(tensor=given["tp"])
    model = model_of(given)
    return fit(
        Deployment(
            model=model,
            gpu=gpu,
            engine=engine_for(gpu, version="0.11", options=EngineOptions(utilization=given["util"]), gpus=given["tp"]),
            parallelism=parallelism,
            weight_format=model.weight_format or "bf16",
            context_tokens=16000,
        )
    )


def weights(given: Mapping[str, Any]) -> float:
    if "logit_bytes_per_seq_vocab" in given:
        return fit_of(given).stages[0].weights_bytes.best / GIB
    return rank_weights(model_of(given), "bf16", Parallelism(tensor=given.get("tp", 1))).best / GIB


def checkpoint(given: Mapping[str, Any]) -> float:
    model = model_of(given)
    return weights_bytes(count_parameters(model), WEIGHT_FORMATS[model.weight_format or "bf16"]) / GIB


def kib_per_token(name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda _: KvCache(model=model_of({}, name)).bytes_per_token / 1024


def free_at(share: float) -> Callable[[Mapping[str, Any]], float]:
    return lambda given: given["total_gib"] * share - given["const_gib"]


DERIVED: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "num_blocks": blocks_of,
    "concurrency": concurrency,
    "tokens": lambda given: pool_of(given).tokens(blocks_of(given)),
    "weights_gib": weights,
    "activation_gib": lambda given: fit_of(given).stages[0].overhead.activation_bytes.best / GIB,
    "kv_gib": lambda given: fit_of(given).stages[0].pool_bytes.best / GIB,
    "ckpt_gib": checkpoint,
    "kv_gib_8192": lambda given: sequence_gib(given, 8192),
    "need_gib": lambda given: sequence_gib(given, given["max_model_len"]),
    "est_max_len": longest,
    "kv_mib": lambda given: sequence_gib(given, given["n_ctx"]) * 1024,
    "k1": lambda given: sequence_gib(given, 1024),
    "k16": lambda given: sequence_gib(given, 16_000),
    "k128": lambda given: sequence_gib(given, 128_000),
    "gpt2xl": kib_per_token("gpt2xl"),
    "llama3_8b": kib_per_token("llama3_8b"),
    "deepseek_v3": kib_per_token("deepseek_v3"),
    "u50": free_at(0.5),
    "u85": free_at(0.85),
    "u90": free_at(0.9),
}
CASES = [(entry, quantity) for entry in GOLDEN for quantity in entry["expect"]]


@pytest.mark.parametrize(("entry", "quantity"), CASES, ids=[f"{entry['id']}-{quantity}" for entry, quantity in CASES])
def test_what_was_printed_is_derived_within_its_tolerance(entry: dict[str, Any], quantity: str) -> None:
    derived = DERIVED[quantity](entry["given"])

    assert derived == pytest.approx(entry["expect"][quantity], rel=entry["tolerance_pct"] / 100)


def test_all_34_entries_are_there_and_the_page_on_sizing_says_so() -> None:
    page = Path(__file__).parents[2] / "docs" / "sizing.md"

    assert len(GOLDEN) == 34
    assert f"| {len(GOLDEN)} entries, {len(CASES)} numbers |" in page.read_text(encoding="utf-8")
