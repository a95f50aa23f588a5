"""Lists of modules as checkpoints write them: names, parts of names, globs and regular expressions."""

import re
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import translate
from functools import cache
from itertools import product

from llmload.errors import ConfigError
from llmload.sizing.architecture import Weight

# What families call the same block; the first is what `layer_weights` calls it.
_BLOCKS: tuple[tuple[str, ...], ...] = (
    ("mlp.shared_experts", "mlp.shared_expert", "mlp.shared_mlp", "feed_forward.shared_expert", "mixer.shared_experts",
     "block_sparse_moe.shared_experts"),
    ("mlp.experts.0", "mlp.experts", "block_sparse_moe.experts.0", "feed_forward.experts", "mixer.experts.0"),
    ("mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "mixer.experts"),
    ("mlp", "block_sparse_moe", "feed_forward", "mixer"),
    ("self_attn", "attn", "attention", "mixer"),
    ("mamba", "mixer"),
)  # fmt: skip
_LEAVES = {
    "q_proj": ("qkv_proj",), "k_proj": ("qkv_proj",), "v_proj": ("qkv_proj",), "o_proj": ("out_proj", "dense"),
    "gate_proj": ("w1", "gate_up_proj"), "up_proj": ("w3", "gate_up_proj"), "down_proj": ("w2",),
    "in_proj_qkv": ("in_proj_qkvz",), "in_proj_z": ("in_proj_qkvz",), "in_proj_ba": ("in_proj_a", "in_proj_b"),
    "q_a_proj": ("fused_qkv_a_proj",), "gate": ("router", "gate.wg"),
}  # fmt: skip
_ROOTS = ("model.", "", "model.language_model.", "language_model.model.")
_ROOT_NAMES = {"model", "language_model", "transformer", "backbone", "thinker"}
# Modules that may be listed and are not a weight of the language model's layers, or never narrow.
_OUTSIDE = re.compile(
    r"vision|visual|vit|image|video|audio|speech|talker|code2wav|projector|connector|aligner|merger|patch_merge|mtp|eh_proj|"
    r"nextn|shared_head|norm|embed|wte|lm_head|head$|gate|router|score|classifier|rotary|conv|indexers_proj|altup|laurel|per_layer"
)
_EXPERT = re.compile(r"experts\.(\d+)")  # a layer's experts are one weight here
_LAYER = re.compile(r"layers\.(\d+)")


class Selection:
    """The modules that a list of names and patterns chooses; it remembers which of these never chose one."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ConfigError for a regular expression that is none."""
        self._unfound = dict.fromkeys(patterns)
        self._plain: defaultdict[str, list[str]] = defaultdict(list)
        self._experts: defaultdict[str, set[str]] = defaultdict(set)
        self._patterns: defaultdict[int | None, list[tuple[str, re.Pattern[str]]]] = defaultdict(list)
        for pattern in self._unfound:
            if pattern.startswith("re:") or any(each in pattern for each in "*?["):
                layer = re.match(r"layers\.(\d+)\.", _rootless(pattern))
                self._patterns[int(layer[1]) if layer else None].append((pattern, _compiled(pattern)))
            else:
                name = _EXPERT.sub("experts.0", _rootless(pattern))
                self._plain[name].append(pattern)
                self._experts[name].update(_EXPERT.findall(pattern))

    def has(self, name: str, layer: int | None) -> bool:
        """Return whether a weight of a layer, by its name within it, is chosen; of no layer: by its whole name."""
        found = False
        own = () if layer is None else self._patterns.get(layer, ())
        for alias in _aliases(name):
            whole = alias if layer is None else f"layers.{layer}.{alias}"
            found |= any(self._found(self._plain[run]) for run in _runs(whole) if run in self._plain)
            for pattern, compiled in (*self._patterns.get(None, ()), *own):
                roots = _ROOTS if pattern.startswith("re:") else ("",)
                if any(compiled.match(root + whole) for root in roots):
                    found = self._found([pattern])
        return found

    def never_found(self, layers: int) -> str | None:
        """Return a pattern that chose nothing and names no part outside the decoder's `layers`; None without one."""
        for pattern in self._unfound:
            layer = _LAYER.search(pattern)
            if not _OUTSIDE.search(pattern) and not (layer and int(layer[1]) >= layers):
                return pattern
        return None

    def some_experts(self, count: int) -> str | None:
        """Return a name of one of `count` experts whose layer is not named whole; None without one."""
        return next((self._plain[name][0] for name, seen in self._experts.items() if 0 < len(seen) < count), None)

    def _found(self, patterns: list[str]) -> bool:
        for pattern in patterns:
            self._unfound.pop(pattern, None)
        return True


def _runs(name: str) -> list[str]:
    """Every run of a name's components: a list may give a module whole, by its parents, or by its last parts."""
    parts = name.split(".")
    return [".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)]


def alone(name: str) -> Weight:
    """Return a stand-in for a weight outside the layers."""
    return Weight(name=name, part="lm_head", elements=0)


def _rootless(pattern: str) -> str:
    """A name or glob without the modules that hold the layers, which differ from class to class."""
    parts = pattern.split(".")
    while len(parts) > 1 and parts[0] in _ROOT_NAMES:
        del parts[0]
    return ".".join(parts)


def _compiled(pattern: str) -> re.Pattern[str]:
    """
    A regular expression (re:) as it is; a glob for whole components anywhere in a module's name.

    Sources: compressed-tensors `match_name`; vLLM `is_layer_skipped`; Transformers `should_convert_module`.
    """
    try:
        if pattern.startswith("re:"):
            return re.compile(pattern.removeprefix("re:"))
        glob = translate(_rootless(pattern)).removesuffix(r"\Z").removesuffix(r"\z")
        return re.compile(rf"(?:.*\.)?{glob}(?:\..*)?$")
    except re.error as error:
        raise ConfigError(f"quantization_config has the pattern {pattern[:80]!r}, which is not one: {error}") from None


@cache
def _aliases(name: str) -> list[str]:
    """A weight's name and what other families would call it."""
    block, _, leaf = name.rpartition(".")
    blocks: tuple[str, ...] = (block,)
    for names in _BLOCKS:
        first = names[0]
        if block == first or block.startswith(first + "."):
            blocks = tuple(each + block.removeprefix(first) for each in names)
            break
    leaves = (leaf, *_LEAVES.get(leaf, ()))
    return [".".join(filter(None, each)) for each in product(blocks, leaves)]
