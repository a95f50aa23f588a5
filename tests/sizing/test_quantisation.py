"""How configs say that their weights are narrower."""

from typing import Any

import pytest

from llmload.errors import ConfigError
from llmload.sizing.catalogue import catalogue, load_model
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig, declared_format
from llmload.sizing.weights import default_format


@pytest.mark.parametrize(
    ("quantization_config", "expected"),
    [
        ({"quant_method": "awq", "bits": 4}, "w4a16"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "gptq", "bits": 3}, None),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        ({"quant_method": "compressed-tensors"}, None),
        ({"quant_method": "aqlm"}, None),
    ],
)
def test_declared_quantisations(quantization_config: dict[str, Any], expected: str | None) -> None:
    assert declared_format({"quantization_config": quantization_config}) == expected


def test_without_quantisation_the_dtype_decides() -> None:
    assert declared_format({}) == "bf16"
    assert declared_format({"torch_dtype": "float32"}) == "fp32"
    assert declared_format({"dtype": "float16"}) == "bf16"


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
