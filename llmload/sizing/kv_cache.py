"""What one sequence keeps on one GPU: keys and values, latents, states."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from llmload.errors import ConfigError
from llmload.sizing.architecture import Attention, CompressedAttention, LatentAttention, Mixer, ModelSpec, Recurrent

KV_ELEMENT_BYTES: Mapping[str, int] = {"bf16": 2, "fp16": 2, "fp8": 1, "fp32": 4}


def default_kv_dtype(model: ModelSpec) -> str:
    """Return the KV cache's type that a model's checkpoint declares, else bf16; ConfigError for one that is unknown."""
    declared = model.kv_dtype or "bf16"
    if declared not in KV_ELEMENT_BYTES:
        raise ConfigError(f"{model.source}: declares a KV cache of {declared!r}, which is not known: give --kv-dtype")
    return declared


_CONVOLUTION_ELEMENT_BYTES = 2  # states stay in the model's 16 bits when the KV cache is stored in fewer
_COMPRESSED_FP8_SCALE_BYTES = 8  # of DeepSeek-V4's fp8 latents, whose rotated part is 16 bits wide
_COMPRESSOR_ELEMENT_BYTES = 4
_SPARSE_FP8_LATENT_BYTES = 656  # vLLM's fp8_ds_mla: 512 in 8 bits, four 32-bit scales, 64 rotated in 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """
    The cache of one model on one GPU of a tensor-parallel group, element_bytes wide.

    Sources: 2 x kv_heads x head_dim a layer (Shazeer 2019; Ainslie et al. 2023), kv_lora_rank + qk_rope_head_dim a
    layer, the same on every GPU, for latent attention (DeepSeek-V2, arXiv 2405.04434).
    """

    model: ModelSpec
    element_bytes: int = 2
    tensor_parallel: int = 1
    draft_tokens: int = 0  # which convolutions keep beside their own inputs

    def layer_bytes_per_token(self, mixer: Mixer) -> float:
        """Return the bytes that one token adds to one layer; 0 for a layer whose memory does not grow."""
        if isinstance(mixer, Attention):
            kept = self._kv_heads(mixer) * (mixer.head_dim + mixer.value_dim) * self.element_bytes
            index = mixer.index_head_dim * self.element_bytes  # the same on every GPU
            return 0 if mixer.shares_cache else kept + index
        if isinstance(mixer, LatentAttention):
            latent = (mixer.kv_lora_rank + mixer.qk_rope_head_dim) * self.element_bytes
            if not mixer.index_heads:
                return latent
            index = index_key_bytes(mixer)
            return index + (_SPARSE_FP8_LATENT_BYTES if self.element_bytes == 1 else latent)
        if isinstance(mixer, CompressedAttention):
            return self.compressed_latent_bytes(mixer) + self._bytes_behind_window(mixer)
        return 0

    def compressed_latent_bytes(self, mixer: CompressedAttention) -> int:
        """Return the bytes of one latent of DeepSeek-V4, of one token or of several."""
        if self.element_bytes > 1:
            return mixer.head_dim * self.element_bytes
        return mixer.head_dim + mixer.rope_head_dim + _COMPRESSED_FP8_SCALE_BYTES

    def _bytes_behind_window(self, mixer: Mixer) -> float:
        """What one token adds to a layer once its window is full."""
        if not isinstance(mixer, CompressedAttention):
            return self.layer_bytes_per_token(mixer) if window_tokens(mixer) is None else 0
        if not mixer.ratio:
            return 0
        return (self.compressed_latent_bytes(mixer) + index_key_bytes(mixer)) / mixer.ratio

    def layer_state_bytes(self, mixer: Mixer) -> int:
        """Return the bytes of recurrent state that one layer keeps for a sequence; 0 for attention."""
        if not isinstance(mixer, Recurrent):
            return 0
        inputs = mixer.convolution_elements + self.draft_tokens * mixer.convolved
        convolution = inputs // self.tensor_parallel * _CONVOLUTION_ELEMENT_BYTES
        return convolution + mixer.state_elements // self.tensor_parallel * mixer.state_element_bytes

    @property
    def bytes_per_token(self) -> float:
        """Bytes that one token adds before any sliding window is full."""
        return sum(self.layer_bytes_per_token(mixer) for mixer in self.model.mixers)

    @property
    def bytes_per_token_beyond_windows(self) -> float:
        """Bytes that one more token adds once every sliding window is full."""
        return sum(self._bytes_behind_window(mixer) for mixer in self.model.mixers)

    @property
    def bytes_per_input_token(self) -> float:
        """Bytes that one token of an encoder's input adds to the decoder's cross-attention; 0 without an encoder."""
        return sum(self.layer_bytes_per_token(layer.cross) for layer in self.model.decoder if layer.cross)

    @property
    def state_elements(self) -> int:
        """Elements of recurrent state of a sequence of any length, whatever their width."""
        states = (mixer for mixer in self.model.mixers if isinstance(mixer, Recurrent))
        return sum(each.convolution_elements + each.state_elements for each in states) // self.tensor_parallel

    @property
    def state_bytes(self) -> int:
        """Bytes of recurrent state of a sequence of any length."""
        return sum(self.layer_state_bytes(mixer) for mixer in self.model.mixers)

    def sequence_bytes(self, context_tokens: int, input_tokens: int = 0) -> int:
        """Return the bytes of one sequence, without rounding to blocks; input_tokens are the encoder's."""
        grown = sum(self._layer_sequence_bytes(mixer, context_tokens) for mixer in self.model.mixers)
        return int(grown + self.bytes_per_input_token * input_tokens) + self.state_bytes

    def _layer_sequence_bytes(self, mixer: Mixer, context_tokens: int) -> float:
        within = min(context_tokens, window_tokens(mixer) or context_tokens)
        if not isinstance(mixer, CompressedAttention):
            return self.layer_bytes_per_token(mixer) * within
        open_tokens = min(context_tokens, mixer.overlapping * mixer.ratio)
        return (
            self.compressed_latent_bytes(mixer) * within
            + self._bytes_behind_window(mixer) * context_tokens
            + open_tokens * sum(compressor_bytes_per_token(mixer))
        )

    def _kv_heads(self, mixer: Attention) -> int:
        """Key heads on one GPU: with fewer heads than GPUs, each GPU has a copy of one."""
        return max(1, mixer.kv_heads // self.tensor_parallel)


def window_tokens(mixer: Mixer) -> int | None:
    """Return the sliding window of a layer in tokens, None where it keeps the whole context."""
    return mixer.window_tokens if isinstance(mixer, Attention | CompressedAttention) else None


def index_key_bytes(mixer: LatentAttention | CompressedAttention) -> int:
    """Return the bytes of one key of a lightning indexer: 8 bits an element, and a 32-bit scale for each 128."""
    return mixer.index_head_dim + 4 * ceil(mixer.index_head_dim / 128)


def compressor_bytes_per_token(mixer: CompressedAttention) -> tuple[int, int]:
    """Return what a compressor keeps of a token whose latent is not closed, and what the indexer's own one keeps."""
    each = 2 * mixer.overlapping * _COMPRESSOR_ELEMENT_BYTES  # sums and scores
    return each * mixer.head_dim, each * mixer.index_head_dim
