"""Mixers with a state of fixed size a sequence, from a config: gated delta rules, Mamba, short convolutions."""

from collections.abc import Callable, Mapping

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
        convolved=convolved,
        state_elements=values * config.count("linear_key_head_dim"),
        state_element_bytes=config.element_bytes("mamba_ssm_dtype", 2),
    )


def _matrix(name: str, rows: int, columns: int, *, whole: bool = False) -> Weight:
    return Weight(name=name, part="attention", elements=rows * columns, columns=columns, whole=whole)


def _vectors(name: str, elements: int, *, whole: bool = False) -> Weight:
    return Weight(name=f"{name}.vectors", part="attention", elements=elements, whole=whole)


def mamba2(config: HfConfig) -> Recurrent:
    """Return a Mamba-2 mixer; ConfigError for a key that is missing."""
    heads, hidden, kernel = config.count("mamba_n_heads"), config.count("hidden_size"), config.count("mamba_d_conv", 4)
    if config.has("mamba_d_ssm"):
        inner = config.count("mamba_d_ssm")
    elif config.values.get("mamba_d_head") in (None, "auto"):
        inner = config.count("mamba_expand", 2) * hidden
    else:
        inner = heads * config.count("mamba_d_head")
    groups, state = config.count("mamba_n_groups", 1), config.count("mamba_d_state")
    convolved = inner + 2 * groups * state
    projected = inner + convolved + heads
    biased = config.flag("mamba_proj_bias", default=False)
    biases = biased * (projected + hidden) + config.flag("mamba_conv_bias", default=True) * convolved
    normed = config.flag("mamba_rms_norm", default=config.model_type != "falcon_h1")
    return Recurrent(
        heads=(heads,),
        weights=(
            _matrix("mamba.in_proj", projected, hidden),
            _matrix("mamba.out_proj", hidden, inner),
            _vectors("mamba", convolved * kernel + 3 * heads + normed * inner + biases),
        ),
        convolution_elements=(kernel - 1) * convolved,
        convolved=convolved,
        state_elements=inner * state,
        state_element_bytes=config.element_bytes("mamba_ssm_cache_dtype", 2),
    )


def mamba1(config: HfConfig) -> Recurrent:
    """Return Jamba's Mamba mixer, with norms inside; ConfigError for a key that is missing."""
    hidden, kernel, state = config.count("hidden_size"), config.count("mamba_d_conv", 4), config.count("mamba_d_state")
    inner = config.count("mamba_expand", 2) * hidden
    automatic = config.values.get("mamba_dt_rank", "auto") == "auto"
    rank = -(-hidden // 16) if automatic else config.count("mamba_dt_rank")
    biases = config.flag("mamba_proj_bias", default=False) * (2 * inner + hidden)
    biases += config.flag("mamba_conv_bias", default=True) * inner
    return Recurrent(
        heads=(inner,),
        weights=(
            _matrix("mamba.in_proj", 2 * inner, hidden),
            _matrix("mamba.x_proj", rank + 2 * state, inner),
            _matrix("mamba.dt_proj", inner, rank),
            _matrix("mamba.out_proj", hidden, inner),
            _vectors("mamba", inner * (kernel + state + 2) + biases),  # convolution, A, D and the bias of dt_proj
            _vectors("mamba.norms", rank + 2 * state, whole=True),
        ),
        convolution_elements=(kernel - 1) * inner,
        convolved=inner,
        state_elements=inner * state,
        state_element_bytes=config.element_bytes("mamba_ssm_cache_dtype", 2),
    )


def short_convolution(config: HfConfig) -> Recurrent:
    """Return LFM2's gated short convolution, whose state are its last inputs; ConfigError for a key that is missing."""
    hidden, kernel = config.count("hidden_size"), config.count("conv_L_cache", 3)
    biases = config.flag("conv_bias", default=False) * 5 * hidden
    return Recurrent(
        heads=(hidden,),
        weights=(
            _matrix("conv.in_proj", 3 * hidden, hidden),
            _matrix("conv.out_proj", hidden, hidden),
            _vectors("conv", hidden * kernel + biases),
        ),
        convolution_elements=(kernel - 1) * hidden,
        convolved=hidden,
        state_elements=0,
    )


def kimi_delta(config: HfConfig) -> Recurrent:
    """Return Kimi's delta attention, whose state is 32 bits wide; ConfigError for a key that is missing."""
    inner_config = config.values.get("linear_attn_config")
    own = HfConfig(inner_config if isinstance(inner_config, Mapping) else {}, f"{config.source}, linear_attn_config")
    heads, dim, kernel = own.count("num_heads"), own.count("head_dim"), own.count("short_conv_kernel_size", 4)
    hidden, width = config.count("hidden_size"), heads * dim
    low_rank = "f" if own.flag("use_full_rank_gate", default=False) else "fg"
    whole_rank = "" if "g" in low_rank else "g"
    return Recurrent(
        heads=(heads,),
        weights=(
            *(_matrix(f"self_attn.{name}_proj", width, hidden) for name in "qkv" + whole_rank),
            *(_matrix(f"self_attn.{name}_a_proj", dim, hidden, whole=True) for name in low_rank),
            *(_matrix(f"self_attn.{name}_b_proj", width, dim) for name in low_rank),
            _matrix("self_attn.b_proj", heads, hidden),
            _matrix("self_attn.o_proj", hidden, width),
            _vectors("self_attn", 3 * width * kernel + width + heads),
            _vectors("self_attn.o_norm", dim, whole=True),
        ),
        convolution_elements=(kernel - 1) * 3 * width,
        convolved=3 * width,
        state_elements=width * dim,
        state_element_bytes=4,
    )


RECURRENT: Mapping[str, Callable[[HfConfig], Recurrent]] = {
    "gated_delta_rule": gated_delta_rule,
    "mamba2": mamba2,
    "mamba1": mamba1,
    "short_convolution": short_convolution,
    "kimi_delta": kimi_delta,
}
