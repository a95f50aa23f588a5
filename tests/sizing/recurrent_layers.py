"""A recurrent mixer of given sizes."""

from llmload.sizing.architecture import Recurrent
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.recurrent import gated_delta_rule


def delta_rule(key_heads: int, value_heads: int, key_dim: int, value_dim: int) -> Recurrent:
    config = {
        "hidden_size": 64,
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": value_dim,
        "linear_conv_kernel_dim": 4,
    }
    return gated_delta_rule(HfConfig(config, "here"))
