"""How a config says its weights are stored, in the names of WEIGHT_FORMATS."""

from collections.abc import Mapping
from typing import Any

_BY_BITS: Mapping[tuple[str, int], str] = {
    ("int", 4): "w4a16",
    ("int", 8): "int8",
    ("float", 8): "fp8",
    ("float", 4): "nvfp4",
}
_BY_METHOD: Mapping[str, str] = {"mxfp4": "mxfp4", "fp8": "fp8", "fbgemm_fp8": "fp8"}
_BY_DTYPE: Mapping[str, str] = {"float32": "fp32", "float16": "bf16", "bfloat16": "bf16"}


def declared_format(values: Mapping[str, Any]) -> str | None:
    """
    The weight format that a config declares, "bf16" where it declares none; None for a quantisation that is not known.

    Sources: the quantization_config of Transformers, compressed-tensors and ModelOptimizer.
    """
    declared = values.get("quantization_config")
    if not isinstance(declared, Mapping):
        return _BY_DTYPE.get(str(values.get("dtype") or values.get("torch_dtype") or "bfloat16"), "bf16")
    method = str(declared.get("quant_method"))
    if method in _BY_METHOD:
        return _BY_METHOD[method]
    if method == "bitsandbytes":
        return "nf4" if declared.get("load_in_4bit") else "int8"
    if method == "compressed-tensors":
        return _compressed(declared)
    if method == "modelopt":
        return {"FP8": "fp8", "NVFP4": "nvfp4"}.get(str(declared.get("quant_algo")))
    if method in ("awq", "gptq", "auto-round", "autoround"):
        return _BY_BITS.get(("int", declared.get("bits", 4)))
    return None


def _compressed(declared: Mapping[str, Any]) -> str | None:
    """The format of the first group of layers: others in one file are rare, and its header says more."""
    groups = declared.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        return None
    return _BY_BITS.get((str(weights.get("type")), int(weights.get("num_bits", 0))))
