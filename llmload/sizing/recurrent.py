"""Mixers with a state of fixed size a sequence, from a config: gated delta rules, Mamba, short convolutions."""

from llmload.sizing.architecture import Recurrent, Weight
from llmload.sizing.hf_config import HfConfig


def gated_delta_rule(config: HfConfig) -> Recurrent:
    """Return the linear attention of Qwen3-Next and Qwen3.5; ConfigError for a key that is missing."""
    key_heads, value_heads = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
    keys = key_heads * config.count("linear_key_head_dim")
    values = value_heads * config.count("linear_value_head_dim")
    hidden, kernel = config.count("hidden_size"), config.count("linear_conv_kernel_dim")
    convolved = 2 * keys + values
    return Recurrent(
        heads=(key_heads, value_heads),
        weights=(
            _matrix("linear_attn.in_proj_qkv", convolved, hidden),
            _matrix("linear_attn.in_proj_z", values, hidden),
            _matrix("linear_attn.in_proj_ba", 2 * value_heads, hidden),
            _matrix("linear_attn.out_proj", hidden, values),
            _vectors("linear_attn", convolved * kernel + 2 * value_heads),
            _vectors("linear_attn.norm", config.count("linear_value_head_dim"), whole=True),
        ),
        convolution_elements=(kernel - 1) * convolved,
        state_elements=values * config.count("linear_key_head_dim"),
        state_element_bytes=config.element_bytes("mamba_ssm_dtype", 2),
    )


def _matrix(name: str, rows: int, columns: int, *, whole: bool = False) -> Weight:
    return Weight(name=name, part="attention", elements=rows * columns, columns=columns, whole=whole)


def _vectors(name: str, elements: int, *, whole: bool = False) -> Weight:
    return Weight(name=f"{name}.vectors", part="attention", elements=elements, whole=whole)
