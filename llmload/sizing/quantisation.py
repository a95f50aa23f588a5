"""Which weights a checkpoint stores in fewer bits, and its KV cache's type, from all places where it may say so."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmload.errors import shown
from llmload.sizing.architecture import Experts, Layer, ModelSpec, Weight
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.module_names import Selection, alone
from llmload.sizing.parameters import layer_weights

_16_BITS = 16
_BY_DTYPE: Mapping[str, str] = {"float32": "fp32", "float16": "bf16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a weight is stored: the name in WEIGHT_FORMATS that is nearest, and its bits, scales and zero points in."""

    name: str
    bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a quantization_config says: schemes with the modules that each is for (None: all), and the modules kept."""

    schemes: tuple[tuple[tuple[str, ...] | None, Scheme | None], ...]
    kept: tuple[str, ...] = ()
    kept_key: str = "ignore"
    head_too: bool = False  # the language-model head is a module like others
    kv_dtype: str | None = None
    named: str | None = None  # what the checkpoint goes by; None: its first scheme


class _UnreadError(Exception):
    """A quantisation that is not understood; its text says what."""


def with_quantisation(model: ModelSpec, config: HfConfig) -> ModelSpec:
    """
    Return a model with the bits of each weight as its config declares them, and its KV cache's type.

    Where the quantisation is not understood, or modules are listed that the model does not have, weight_format is None
    and `unread` says why. Raises ConfigError for a quantization_config that is not an object.
    """
    declared = config.values.get("quantization_config") or config.values.get("compression_config")
    if declared is None:
        dtype = config.values.get("dtype") or config.values.get("torch_dtype") or "bfloat16"
        return replace(model, weight_format=_BY_DTYPE.get(str(dtype), "bf16"))
    if not isinstance(declared, Mapping):
        raise config.refusal(f"quantization_config = {shown(declared)} is not an object")
    inner = declared.get("quantization")  # hf_quant_config.json has another level
    declared = {**declared, **inner} if isinstance(inner, Mapping) else declared
    method = str(declared.get("quant_method") or ("modelopt" if "quant_algo" in declared else "of no quant_method"))
    model = replace(model, quantisation=method)
    if method == "mxfp4":  # experts and nothing else, whatever it lists: what this name means in WEIGHT_FORMATS
        return replace(model, weight_format="mxfp4")
    try:
        return _stored(model, _with_own_experts(_read(method, declared), declared, config))
    except _UnreadError as unread:
        return replace(model, weight_format=None, unread=str(unread))


def _with_own_experts(found: Declared, declared: Mapping[str, Any], config: HfConfig) -> Declared:
    """DeepSeek-V4 says beside its quantization_config that its experts are MXFP4, and in it where they are NVFP4."""
    dtype, algorithm = config.values.get("expert_dtype"), declared.get("moe_quant_algo")
    if dtype is None or dtype == "fp8":
        return found
    if dtype != "fp4" or algorithm not in (None, "NVFP4"):
        raise _UnreadError(f"expert_dtype = {shown(dtype)} with moe_quant_algo = {shown(algorithm)} is not known")
    experts = (("re:.*mlp\\.experts\\..*",), _floats(4, 16 if algorithm else 32))
    return replace(found, schemes=(experts, *found.schemes), named="fp8")


def _read(method: str, declared: Mapping[str, Any]) -> Declared:
    reader = _READERS.get(method)
    if reader is None:
        raise _UnreadError(f"quantisation {shown(method)} is not known")
    return reader(declared)


def _stored(model: ModelSpec, declared: Declared) -> ModelSpec:
    """The model with the bits of every weight that is stored in fewer than 16."""
    kept = Selection(declared.kept)
    groups = [(None if names is None else Selection(names), scheme) for names, scheme in declared.schemes]

    def bits(weight: Weight, layer: int | None) -> float | None:
        scheme = next((each for names, each in groups if names is None or names.has(weight.name, layer)), None)
        # Both are asked: a name that is never found is refused below.
        return None if kept.has(weight.name, layer) or scheme is None else scheme.bits

    def layer_bits(layer: Layer, i: int) -> Layer:
        found = [(each, bits(each, i)) for each in layer_weights(layer, model.hidden_size)]
        narrow = tuple((weight.name, width) for weight, width in found if weight.columns and width)
        return replace(layer, stored_bits=narrow)

    decoder = tuple(layer_bits(layer, i) for i, layer in enumerate(model.decoder))
    head = bits(alone("lm_head"), None)
    outside = (("lm_head", head),) if head and declared.head_too and not model.tied_embeddings else ()
    experts = max((each.feed_forward.count for each in decoder if isinstance(each.feed_forward, Experts)), default=0)
    for selection in (kept, *(names for names, _ in groups if names is not None)):
        some = selection.some_experts(experts)
        if some is not None:
            raise _UnreadError(
                f"quantization_config.{declared.kept_key} names {shown(some)}, and not every expert of its layer"
            )
        unknown = selection.never_found(len(model.decoder))
        if unknown is not None:
            raise _UnreadError(
                f"quantization_config.{declared.kept_key} names {shown(unknown)}, which llmload does not know in "
                f"{model.model_type}"
            )
    named = declared.named or next((scheme.name for _, scheme in declared.schemes if scheme), "bf16")
    encoder = tuple(layer_bits(layer, i) for i, layer in enumerate(model.encoder))
    return replace(
        model,
        decoder=decoder,
        encoder=encoder,
        stored_bits=outside,
        weight_format=named,
        kv_dtype=declared.kv_dtype or model.kv_dtype,
    )


def _names(declared: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    """The module names under the first key that has any."""
    value = next((declared[key] for key in keys if declared.get(key)), ())
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise _UnreadError(f"quantization_config.{keys[0]} is not a list of module names")
    return tuple(value)


def _whole(declared: Mapping[str, Any], key: str, default: int) -> int:
    value = declared.get(key, default)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise _UnreadError(f"quantization_config.{key} = {shown(value)} is not a whole number")
    return value


def _integers(bits: int, group: int, *, zero_points: bool) -> Scheme:
    """Integers with a 16-bit scale a group; a group of -1 is a whole row, whose scale is too little to count."""
    if bits not in (2, 3, 4, 5, 6, 8):
        raise _UnreadError(f"weights of {bits} bits are not known")
    name = {4: "w4a16", 8: "int8"}.get(bits, f"int{bits}")
    beside = (16 + bits * zero_points) / group if group > 0 else 0
    return Scheme(name, bits + beside)


def _floats(bits: int, group: int) -> Scheme:
    """Floats of 8 bits, and those of 4 by their group: NVFP4 has an 8-bit scale for each 16, MXFP4 for each 32."""
    known = {(4, 16): Scheme("nvfp4", 4.5), (4, 32): Scheme("mxfp4", 4.25), (8, 32): Scheme("fp8", 8.25)}
    if (bits, group) in known:
        return known[bits, group]
    if bits == 8:
        return Scheme("fp8", 8)
    raise _UnreadError(f"floats of {bits} bits in groups of {group} are not known")


def _blocks(declared: Mapping[str, Any], key: str) -> Scheme:
    """FP8 with a 32-bit scale for each block of rows x columns."""
    block = declared.get(key)
    if not block:
        return Scheme("fp8", 8)
    if not isinstance(block, list) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        raise _UnreadError(f"quantization_config.{key} = {shown(block)} is not known")
    return Scheme("fp8", 8 + 32 / (block[0] * block[1]))


def _fp8(declared: Mapping[str, Any]) -> Declared:
    scheme = Scheme("fp8", 8.25) if declared.get("fmt") == "mxfp8" else _blocks(declared, "weight_block_size")
    kept = _names(declared, "modules_to_not_convert", "ignored_layers")
    return Declared(schemes=((None, scheme),), kept=kept, kept_key="modules_to_not_convert")


def _mxfp8(declared: Mapping[str, Any]) -> Declared:
    return replace(_fp8(declared), schemes=((None, Scheme("fp8", 8.25)),))


def _awq(declared: Mapping[str, Any]) -> Declared:
    scheme = _integers(_whole(declared, "bits", 4), _whole(declared, "group_size", 128), zero_points=True)
    kept = _names(declared, "modules_to_not_convert")
    return Declared(schemes=((None, scheme),), kept=kept, kept_key="modules_to_not_convert")


def _gptq(declared: Mapping[str, Any]) -> Declared:
    """GPTQ stores zero points even where it is symmetric; `dynamic` has other bits, or none, for some modules."""
    bits, group = _whole(declared, "bits", 4), _whole(declared, "group_size", 128)
    others: list[tuple[tuple[str, ...] | None, Scheme | None]] = []
    dynamic = declared.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise _UnreadError(f"quantization_config.dynamic = {shown(dynamic)} is not an object")
    for pattern, own in dynamic.items():
        names = ("re:" + pattern.removeprefix("+:").removeprefix("-:"),)
        if pattern.startswith("-:"):
            others.append((names, None))
        elif isinstance(own, Mapping):
            scheme = _integers(_whole(own, "bits", bits), _whole(own, "group_size", group), zero_points=True)
            others.append((names, scheme))
    return Declared(
        schemes=(*others, (None, _integers(bits, group, zero_points=True))),
        kept=_names(declared, "modules_to_not_convert"),
        kept_key="modules_to_not_convert",
        head_too=bool(declared.get("lm_head")),
    )


def _auto_round(declared: Mapping[str, Any]) -> Declared:
    kind, group = str(declared.get("data_type", "int")), _whole(declared, "group_size", 128)
    bits = _whole(declared, "bits", 4)

    def scheme(bits: int, group: int) -> Scheme:
        if kind == "int":
            return _integers(bits, group, zero_points=True)
        if kind in ("mx_fp", "nv_fp", "mx_fp_rceil", "nv_fp4_with_static_gs"):
            return _floats(bits, group)
        raise _UnreadError(f"quantization_config.data_type = {shown(kind)} of auto-round is not known")

    own = declared.get("extra_config") or {}
    if not isinstance(own, Mapping):
        raise _UnreadError(f"quantization_config.extra_config = {shown(own)} is not an object")
    others = [
        ((name,), None if _whole(each, "bits", bits) >= _16_BITS else scheme(_whole(each, "bits", bits), group))
        for name, each in own.items()
        if isinstance(each, Mapping)
    ]
    return Declared(schemes=(*others, (None, scheme(bits, group))), kept_key="extra_config")


def _bitsandbytes(declared: Mapping[str, Any]) -> Declared:
    """NF4: a 32-bit scale for each 64; doubly quantised, that is an 8-bit one and a 32-bit one for each 256 of them."""
    if declared.get("load_in_4bit"):
        double = declared.get("bnb_4bit_use_double_quant")
        scheme = Scheme("nf4", 4 + (8 / 64 + 32 / (64 * 256) if double else 32 / 64))
    else:
        scheme = Scheme("int8", 8)
    kept = _names(declared, "llm_int8_skip_modules")
    return Declared(schemes=((None, scheme),), kept=kept, kept_key="llm_int8_skip_modules")


def _compressed(declared: Mapping[str, Any]) -> Declared:
    """compressed-tensors: groups of modules by name, pattern or class, each with its own scheme."""
    sparsity = declared.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense"):
        raise _UnreadError(f"sparse weights of the format {shown(sparsity.get('format'))} are not known")
    return Declared(
        schemes=_groups(declared),
        kept=_names(declared, "ignore"),
        head_too=True,
        kv_dtype=_kv_scheme(declared.get("kv_cache_scheme")),
    )


def _groups(declared: Mapping[str, Any]) -> tuple[tuple[tuple[str, ...] | None, Scheme | None], ...]:
    groups = declared.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _UnreadError("a quantization_config without config_groups is not known")
    found = []
    for group in groups.values():
        if not isinstance(group, Mapping):
            raise _UnreadError("a group of quantization_config.config_groups is not an object")
        targets = _names(group, "targets")
        names = None if not targets or "Linear" in targets else targets
        found.append((names, _group_scheme(group)))
    return tuple(sorted(found, key=lambda each: each[0] is None))  # those for some modules come before the rest


def _group_scheme(group: Mapping[str, Any]) -> Scheme | None:
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise _UnreadError("the weights of a group of quantization_config.config_groups are not an object")
    bits, size = _whole(weights, "num_bits", 0), _whole(weights, "group_size", -1)
    if weights.get("type") == "int":
        return _integers(bits, size, zero_points=not weights.get("symmetric", True))
    if weights.get("strategy") == "block":
        return _blocks(weights, "block_structure")
    return _floats(bits, size)


_MODELOPT: Mapping[str, Scheme] = {
    "FP8": Scheme("fp8", 8),
    "FP8_PER_CHANNEL_PER_TOKEN": Scheme("fp8", 8),
    "FP8_PB_WO": Scheme("fp8", 8 + 32 / 128**2),
    "MXFP8": Scheme("fp8", 8.25),
    "NVFP4": Scheme("nvfp4", 4.5),
    "NVFP4_AWQ": Scheme("nvfp4", 4.5),
    "W4A16_NVFP4": Scheme("nvfp4", 4.5),
    "W4A8_MXFP4_FP8": Scheme("mxfp4", 4.25),
    "MXFP4": Scheme("mxfp4", 4.25),
    "W8A8_SQ_PER_CHANNEL": Scheme("int8", 8),
}
_MODELOPT_INTEGERS = ("W4A16_AWQ", "W4A8_AWQ", "INT4_AWQ")


def _modelopt(declared: Mapping[str, Any]) -> Declared:
    """ModelOptimizer, in config.json or in hf_quant_config.json beside it."""
    algorithm = str(declared.get("quant_algo")).upper()
    kept = _names(declared, "ignore", "exclude_modules")
    kv = declared.get("kv_cache_quant_algo") or declared.get("kv_cache_scheme")
    kv_dtype = _kv_scheme(kv) if isinstance(kv, Mapping) else _kv_named(kv)
    schemes: tuple[tuple[tuple[str, ...] | None, Scheme | None], ...]
    if algorithm == "MIXED_PRECISION":
        layers = declared.get("quantized_layers")
        if not isinstance(layers, Mapping):
            raise _UnreadError("quant_algo MIXED_PRECISION without quantized_layers is not known")
        by_scheme: defaultdict[Scheme, list[str]] = defaultdict(list)
        for name, own in layers.items():
            by_scheme[_modelopt_scheme(own)].append(name)
        schemes = tuple((tuple(names), scheme) for scheme, names in by_scheme.items())
    elif algorithm == "NONE" and "config_groups" in declared:
        schemes = _groups(declared)
    else:
        schemes = ((None, _modelopt_scheme(declared)),)
    return Declared(schemes=schemes, kept=kept, kept_key="exclude_modules", head_too=True, kv_dtype=kv_dtype)


def _modelopt_scheme(own: Any) -> Scheme:
    algorithm = str(own.get("quant_algo") if isinstance(own, Mapping) else own).upper()
    if algorithm in _MODELOPT_INTEGERS:
        return _integers(4, _whole(own, "group_size", 128), zero_points=False)
    if algorithm not in _MODELOPT:
        raise _UnreadError(f"quant_algo {shown(algorithm)} of ModelOptimizer is not known")
    return _MODELOPT[algorithm]


_QUARK: Mapping[str, Callable[[int], Scheme]] = {
    "fp8_e4m3": lambda group: _floats(8, group),
    "fp4": lambda group: _floats(4, group),
    "mxfp4": lambda _group: _floats(4, 32),
    "int8": lambda group: _integers(8, group, zero_points=False),
    "int4": lambda group: _integers(4, group, zero_points=False),
    "uint4": lambda group: _integers(4, group, zero_points=True),
}


def _quark(declared: Mapping[str, Any]) -> Declared:
    """AMD Quark: one scheme for all, and others by pattern."""
    by_pattern = declared.get("layer_quant_config") or {}
    if not isinstance(by_pattern, Mapping):
        raise _UnreadError(f"quantization_config.layer_quant_config = {shown(by_pattern)} is not an object")
    export = declared.get("export")
    cache_group = export.get("kv_cache_group") if isinstance(export, Mapping) else None
    others = tuple(((name,), _quark_scheme(own)) for name, own in by_pattern.items())
    return Declared(
        schemes=(*others, (None, _quark_scheme(declared.get("global_quant_config")))),
        kept=_names(declared, "exclude"),
        kept_key="exclude",
        head_too=True,
        kv_dtype="fp8" if cache_group else None,
    )


def _quark_scheme(own: Any) -> Scheme | None:
    weight = own.get("weight") if isinstance(own, Mapping) else None
    if weight is None:
        return None
    if not isinstance(weight, Mapping) or weight.get("dtype") not in _QUARK:
        raise _UnreadError(f"weights of Quark as {shown(weight)} are not known")
    return _QUARK[weight["dtype"]](_whole(weight, "group_size", -1))


def _kv_scheme(scheme: Any) -> str | None:
    """The KV cache's type by the scheme of compressed-tensors."""
    if scheme is None:
        return None
    if isinstance(scheme, Mapping) and (scheme.get("type"), scheme.get("num_bits")) == ("float", 8):
        return "fp8"
    if isinstance(scheme, Mapping):
        return f"{scheme.get('type')}{scheme.get('num_bits')}"
    return _kv_named(scheme)


def _kv_named(name: Any) -> str | None:
    """The KV cache's type by ModelOptimizer's name for it."""
    return None if name in (None, "none", "None") else str(name).lower()


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Declared]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp8": _mxfp8,
    "awq": _awq,
    "gptq": _gptq,
    "auto-round": _auto_round,
    "autoround": _auto_round,
    "intel/auto-round": _auto_round,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "modelopt_mixed": _modelopt,
    "modelopt_mxfp8": _modelopt,
    "quark": _quark,
}
