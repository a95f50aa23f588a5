"""How configs say that their weights are narrower."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.catalogue import catalogue, load_model
from llmload.sizing.families import model_from_config
from llmload.sizing.fit import rank_weights
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.kv_cache import default_kv_dtype
from llmload.sizing.parallelism import Parallelism
from llmload.sizing.parameters import count_parameters, layer_weights
from llmload.sizing.text import model_sheet
from llmload.sizing.weights import default_format, format_of, weights_bytes

LLAMA = dict(catalogue()["llama-3.2-1b-instruct"]["config"])
W4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}


def declared(quantization_config: object, config: dict[str, Any] = LLAMA) -> ModelSpec:
    return model_from_config(HfConfig({**config, "quantization_config": quantization_config}, "here"), "m")


def compressed(weights: dict[str, Any], **others: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]} | others


@pytest.mark.parametrize(
    ("quantization_config", "name", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "w4a16", 4 + 20 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 32}, "w4a16", 4 + 20 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 8),
        ({"quant_method": "gptq", "bits": 3}, "int3", 3 + 19 / 128),
        ({"quant_method": "fp8"}, "fp8", 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8 + 32 / 16384),
        ({"quant_method": "fbgemm_fp8"}, "fp8", 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", 4.5),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            "nf4",
            4 + 8 / 64 + 32 / 16384,
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 8),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 64}, "w4a16", 4 + 20 / 64),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4.5),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ", "group_size": 64}, "w4a16", 4.25),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, "fp8", 8),
        (compressed({"num_bits": 8, "type": "float"}), "fp8", 8),
        (compressed(W4), "w4a16", 4.5),
        (compressed(W4 | {"symmetric": False}), "w4a16", 4 + 20 / 32),
        (compressed({"num_bits": 4, "type": "float", "group_size": 16}), "nvfp4", 4.5),
        (compressed({"num_bits": 4, "type": "float", "group_size": 32}), "mxfp4", 4.25),
    ],
)
def test_declared_quantisations(quantization_config: dict[str, Any], name: str, bits: float) -> None:
    model = declared(quantization_config)

    assert model.weight_format == name
    assert {width for layer in model.decoder for _, width in layer.stored_bits} == {bits}
    assert format_of(model, name).part_bits == {
        "attention": bits,
        "mlp": bits,
        "embed": 16,
        "lm_head": 16,
    }


@pytest.mark.parametrize(
    ("quantization_config", "why"),
    [
        ({"quant_method": "aqlm"}, "quantisation 'aqlm' is not known"),
        ({"quant_method": "torchao"}, "quantisation 'torchao' is not known"),
        ({"bits": 4}, "quantisation 'of no quant_method' is not known"),
        ({"quant_method": "compressed-tensors"}, "without config_groups"),
        (compressed(W4, sparsity_config={"format": "sparse-24-bitmask"}), "sparse weights of the format 'sparse-24"),
        (compressed({"num_bits": 4, "type": "float", "group_size": 64}), "floats of 4 bits in groups of 64"),
        (compressed(W4 | {"num_bits": 7}), "weights of 7 bits are not known"),
        (compressed(W4 | {"group_size": "all"}), "group_size = 'all' is not a whole number"),
        ({"quant_method": "modelopt", "quant_algo": "FP6"}, "quant_algo 'FP6' of ModelOptimizer is not known"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "without quantized_layers is not known"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "bfp16"}}}, "weights of Quark"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size = 128 is not known"),
        ({"quant_method": "awq", "modules_to_not_convert": "lm_head"}, "is not a list of module names"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_with_a_remedy(quantization_config: object, why: str) -> None:
    model = declared(quantization_config)

    assert model.weight_format is None
    with pytest.raises(ConfigError, match=f"here: .*{re.escape(why)}.*: give --precision"):
        default_format(model)


def kept(model: ModelSpec) -> set[str]:
    """The matrices that no layer stores in fewer bits."""
    narrow = {name for layer in model.decoder for name, _ in layer.stored_bits}
    every = {each.name for layer in model.decoder for each in layer_weights(layer, 8) if each.columns}
    return every - narrow


MOE = dict(catalogue()["qwen3-30b-a3b"]["config"]) | {"num_hidden_layers": 1}


def test_a_list_that_names_one_expert_is_not_read_as_all_of_its_layer() -> None:
    names = [f"model.layers.0.mlp.experts.{i}.down_proj" for i in range(128)]
    some, every = (declared(compressed(W4, ignore=names[:n]), MOE) for n in (1, 128))

    assert some.weight_format is None
    assert "'model.layers.0.mlp.experts.0.down_proj', and not every expert of its layer" in str(some.unread)
    assert "mlp.experts.0.down_proj" in kept(every)
    assert "mlp.experts.0.up_proj" not in kept(every)


ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}


@pytest.mark.parametrize(
    ("key", "quantization_config"),
    [
        ("modules_to_not_convert", {"quant_method": "fp8"}),
        ("modules_to_not_convert", {"quant_method": "fbgemm_fp8"}),
        ("modules_to_not_convert", {"quant_method": "awq"}),
        ("llm_int8_skip_modules", {"quant_method": "bitsandbytes"}),
        ("ignore", compressed(W4)),
        ("exclude_modules", {"quant_method": "modelopt", "quant_algo": "FP8"}),
        ("exclude_modules", {"quantization": {"quant_algo": "FP8"}}),
        ("exclude", {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int8"}}}),
    ],
)
@pytest.mark.parametrize(
    "names",
    [
        ["self_attn"],
        ["model.layers.*.self_attn*"],
        ["re:.*self_attn.*"],
        [f"model.layers.{i}.self_attn.{name}_proj" for i in range(16) for name in "qkvo"],
        [f"language_model.model.layers.{i}.self_attn.{name}" for i in range(16) for name in ("qkv_proj", "o_proj")],
    ],
    ids=["part", "glob", "pattern", "each", "fused"],
)
def test_modules_that_a_checkpoint_leaves_alone_stay_16_bits_wide_however_it_says_so(
    key: str, quantization_config: dict[str, Any], names: list[str]
) -> None:
    quantization_config = {**quantization_config}
    if "quantization" in quantization_config:
        quantization_config["quantization"] = {**quantization_config["quantization"], key: [*names, "lm_head"]}
    else:
        quantization_config[key] = [*names, "lm_head", "re:.*vision_tower.*", "model.layers.16*"]

    assert kept(declared(quantization_config)) == ATTENTION


def test_single_layers_and_the_head_may_stay_wide_or_not() -> None:
    first = declared({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]})
    untied = LLAMA | {"tie_word_embeddings": False}
    whole = declared(compressed(W4, ignore=[]), untied)

    assert [len(layer.stored_bits) for layer in first.decoder] == [4] + [7] * 15
    assert dict(whole.stored_bits) == {"lm_head": 4.5}
    assert declared(compressed(W4), untied).stored_bits == ()


def test_groups_of_modules_have_their_own_bits() -> None:
    groups = {
        "rest": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}},
        "some": {"targets": ["re:.*mlp.*"], "weights": W4},
    }
    mixed = declared({"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]})
    gptq = {"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*down_proj": {}, "+:.*up_proj": {"bits": 8}}}
    rounded = {"quant_method": "auto-round", "extra_config": {"model.layers.0.self_attn.q_proj": {"bits": 16}}}

    assert format_of(mixed, "w4a16").part_bits == {"attention": 8, "mlp": 4.5, "embed": 16, "lm_head": 16}
    assert kept(declared(gptq)) == {"mlp.down_proj"}
    assert dict(declared(gptq).decoder[0].stored_bits)["mlp.up_proj"] == 8 + 24 / 128
    assert [len(layer.stored_bits) for layer in declared(rounded).decoder] == [6] + [7] * 15


def test_a_module_that_the_model_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"quantization_config\.ignore names 're:\.\*linear_attn\.\*', which llmload"):
        default_format(declared(compressed(W4, ignore=["lm_head", "re:.*linear_attn.*"])))
    with pytest.raises(ConfigError, match=r"has the pattern 're:\('"):
        declared(compressed(W4, ignore=["re:("]))
    with pytest.raises(ConfigError, match="quantization_config = 'fp8' is not an object"):
        declared("fp8")


@pytest.mark.parametrize(
    ("quantization_config", "kv_dtype"),
    [
        ({"quant_method": "fp8"}, None),
        (compressed(W4, kv_cache_scheme={"num_bits": 8, "type": "float"}), "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"type": "float", "num_bits": 8}}, "fp8"),
    ],
)
def test_a_declared_cache_is_sized_as_declared(quantization_config: object, kv_dtype: str | None) -> None:
    model = declared(quantization_config)

    assert model.kv_dtype == kv_dtype
    assert model_sheet(model).kv_bytes_per_token == (16384 if kv_dtype else 32768)
    assert model_sheet(model, "bf16").kv_bytes_per_token == 32768


def test_a_declared_cache_that_is_not_known_is_refused_with_a_remedy() -> None:
    model = declared({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"})

    with pytest.raises(ConfigError, match="declares a KV cache of 'nvfp4', which is not known: give --kv-dtype"):
        default_kv_dtype(model)


def test_model_optimizers_own_file_beside_the_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    quantization = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))

    model = load_model(str(tmp_path))

    assert (model.weight_format, model.kv_dtype, model.quantisation) == ("nvfp4", "fp8", "modelopt")


def test_llama_405b_in_fp8_has_the_size_that_was_measured() -> None:
    """57.75 GiB a rank of eight: attention, and the first and the last layer, stay 16 bits wide."""
    attention = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(126) for name in "qkvo"]
    ends = [f"model.layers.{i}.mlp.{name}_proj" for i in (0, 125) for name in ("gate", "up", "down")]
    config = dict(catalogue()["llama-3.1-405b-instruct"]["config"]) | {"num_key_value_heads": 16}
    model = declared({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head", *attention, *ends]}, config)

    assert rank_weights(model, "fp8", Parallelism(tensor=8)).best / 2**30 == pytest.approx(57.75, rel=0.001)


DEEPSEEK = dict(catalogue()["deepseek-v3"]["config"])


def test_kimi_k2_thinking_has_the_size_of_its_files() -> None:
    """553 GiB: experts alone have 4 bits, in groups of 32."""
    sizes = {"vocab_size": 163840, "n_routed_experts": 384, "num_attention_heads": 64, "first_k_dense_replace": 1}
    left = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]
    model = declared(compressed(W4, ignore=left), DEEPSEEK | sizes | {"model_type": "kimi_k2"})

    assert stored_gib(model) == pytest.approx(553, rel=0.001)


def test_deepseek_v3_1_in_nvfp4_has_the_size_that_was_measured() -> None:
    """378 GiB over eight ranks: all of the attention but its output stays 16 bits wide, and the layer for drafts."""
    wide = ("kv_a_proj_with_mqa", "kv_b_proj", "q_a_proj", "q_b_proj")
    left = ["lm_head", "model.layers.61*", *(f"model.layers.{i}.self_attn.{name}" for i in range(61) for name in wide)]
    config = {key: value for key, value in DEEPSEEK.items() if key != "quantization_config"}
    model = declared({"quantization": {"quant_algo": "NVFP4", "exclude_modules": left}}, config)

    assert 8 * rank_weights(model, "nvfp4", Parallelism(tensor=8)).best / 2**30 == pytest.approx(378, rel=0.01)


def test_llama_70b_in_nvfp4_has_the_bytes_of_its_index() -> None:
    """nvidia/Llama-3.3-70B-Instruct-NVFP4: total_size 42,709,045,632 (with scales of whole tensors)."""
    config = dict(catalogue()["llama-3.3-70b-instruct"]["config"])
    model = declared({"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}, config)

    assert stored_gib(model) == pytest.approx(42_709_045_632 / 2**30, rel=0.0001)


def stored_gib(model: ModelSpec) -> float:
    return weights_bytes(count_parameters(model), format_of(model, default_format(model))) / 2**30


def test_without_quantisation_the_dtype_decides() -> None:
    def form(**dtype: str) -> str | None:
        return model_from_config(
            HfConfig({**{k: v for k, v in LLAMA.items() if "dtype" not in k}, **dtype}, "here"), "m"
        ).weight_format

    assert form() == "bf16"
    assert form(torch_dtype="float32") == "fp32"
    assert form(dtype="float16") == "bf16"


def test_an_unknown_quantisation_is_not_guessed() -> None:
    config = catalogue()["llama-2-7b"]["config"] | {"quantization_config": {"quant_method": "aqlm"}}
    model = model_from_config(HfConfig(config, "here"), "m")

    with pytest.raises(ConfigError, match="quantisation 'aqlm' is not known: give --precision"):
        default_format(model)


def test_models_that_come_quantised_say_so() -> None:
    assert default_format(load_model("gpt-oss-120b")) == "mxfp4"
    assert default_format(load_model("DeepSeek-V3")) == "fp8"


def test_a_vision_models_text_is_sized_and_its_tower_named_in_either_layout() -> None:
    flat = dict(catalogue()["qwen2.5-7b-instruct"]["config"]) | {
        "model_type": "qwen2_5_vl", "vision_config": {"depth": 32},
    }  # fmt: skip
    nested = {"model_type": "qwen2_5_vl", "text_config": flat | {"model_type": "qwen2_5_vl_text"}} | {
        "vision_config": {"depth": 32}
    }
    one, other = (model_from_config(HfConfig(config, "here"), "m") for config in (flat, nested))

    assert one.uncounted == other.uncounted == ("vision_config",)
    assert one.decoder == other.decoder == load_model("Qwen2.5-7B-Instruct").decoder
