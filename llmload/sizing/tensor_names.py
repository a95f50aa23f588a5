"""Which part of a model a tensor of a weight file belongs to, by its name in safetensors or GGUF."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from llmload.sizing.architecture import Checkpoint, Part

_BESIDE_LANGUAGE = ("vision", "visual", "multi_modal", "mm_projector", "audio", "image_newline", "patch_merger")
_DRAFTS = re.compile(r"(^|\.)(mtp|nextn|eh_proj|shared_head)")
_LAYER = re.compile(r"(?:^|\.)(?:layers|blk)\.(\d+)\.")
# The first that is found decides. A `mixer` may be anything, so it decides nothing.
_PARTS: Final[tuple[tuple[Part, re.Pattern[str]], ...]] = (
    ("mlp", re.compile(r"shared_expert|shexp|shared_mlp")),
    ("experts", re.compile(r"experts|_exps")),
    ("router", re.compile(r"\.(mlp|feed_forward|block_sparse_moe)\.gate\.|router|ffn_gate_inp")),
    ("lm_head", re.compile(r"(^|\.)lm_head\.|^output\.")),
    ("embed", re.compile(r"embed_tokens|token_embd|(^|\.)wte\.|embed_in\.|word_embeddings")),
    ("attention", re.compile(r"\.(self_attn|attn|attention|linear_attn|mamba|conv)\.|\.(attn|ssm)_(?!(post_)?norm\.)")),
    ("norms", re.compile(r"norm")),
    ("mlp", re.compile(r"\.(mlp|feed_forward)\.|\.ffn_")),
)


def placed(bytes_by_name: Mapping[str, int], bytes_by_type: Mapping[str, int], layers: int | None) -> Checkpoint:
    """Return a checkpoint with the bytes of each part of the language model; layers from `layers` on are drafts."""
    parts: Counter[Part] = Counter()
    beside = drafts = 0
    known = True
    for name, size in bytes_by_name.items():
        layer = _LAYER.search(name)
        if any(part.startswith(_BESIDE_LANGUAGE) for part in name.split(".")[:2]):
            beside += size
        elif _DRAFTS.search(name) or (layer and layers is not None and int(layer[1]) >= layers):
            drafts += size
        elif (part := _part(name)) is not None:
            parts[part] += size
        else:
            known = False
    return Checkpoint(
        tensor_bytes=sum(bytes_by_name.values()),
        bytes_by_type=tuple(sorted(bytes_by_type.items())),
        beside_language_bytes=beside,
        draft_bytes=drafts,
        part_bytes=tuple(sorted(parts.items())) if known else (),
    )


def _part(name: str) -> Part | None:
    return next((part for part, pattern in _PARTS if pattern.search(name)), None)
