"""What a sequence keeps on the GPU while it is generated: keys and values, latents, recurrent states."""

from collections.abc import Mapping
from dataclasses import dataclass

from llmload.vram.model import Attention, LatentAttention, LinearAttention, Mixer, ModelSpec

KV_ELEMENT_BYTES: Mapping[str, int] = {"bf16": 2, "fp16": 2, "fp8": 1, "fp32": 4}
_STATE_ELEMENT_BYTES = 2  # recurrent states stay in the model's 16 bits when the KV cache is stored in fewer


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

    def layer_bytes_per_token(self, mixer: Mixer) -> int:
        """Bytes that one token adds to one layer; 0 for a layer whose memory does not grow."""
        if isinstance(mixer, Attention):
            return 2 * self._kv_heads(mixer) * mixer.head_dim * self.element_bytes
        if isinstance(mixer, LatentAttention):
            return (mixer.kv_lora_rank + mixer.qk_rope_head_dim) * self.element_bytes
        return 0

    def layer_state_bytes(self, mixer: Mixer) -> int:
        """Bytes of recurrent state that one layer keeps for a sequence; 0 for attention."""
        if not isinstance(mixer, LinearAttention):
            return 0
        keys, values = mixer.key_heads * mixer.key_dim, mixer.value_heads * mixer.value_dim
        convolution = (mixer.conv_kernel - 1) * (2 * keys + values)
        return (convolution + values * mixer.key_dim) // self.tensor_parallel * _STATE_ELEMENT_BYTES

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token adds while no window is full yet."""
        return sum(self.layer_bytes_per_token(layer.mixer) for layer in self.model.decoder)

    @property
    def bytes_per_token_beyond_windows(self) -> int:
        """Bytes that one more token adds once every sliding window is full."""
        return sum(self.layer_bytes_per_token(x.mixer) for x in self.model.decoder if window_tokens(x.mixer) is None)

    @property
    def bytes_per_input_token(self) -> int:
        """Bytes that one token of an encoder's input adds to the decoder's cross-attention; 0 without an encoder."""
        return sum(self.layer_bytes_per_token(layer.cross) for layer in self.model.decoder if layer.cross)

    @property
    def state_bytes(self) -> int:
        """Bytes of recurrent state a sequence keeps, however long it is."""
        return sum(self.layer_state_bytes(layer.mixer) for layer in self.model.decoder)

    def sequence_bytes(self, context_tokens: int, input_tokens: int = 0) -> int:
        """The least bytes one sequence needs: windows cut off, no block rounding; input_tokens are the encoder's."""
        grown = sum(
            self.layer_bytes_per_token(layer.mixer) * min(context_tokens, window_tokens(layer.mixer) or context_tokens)
            for layer in self.model.decoder
        )
        return grown + self.bytes_per_input_token * input_tokens + self.state_bytes

    def _kv_heads(self, mixer: Attention) -> int:
        """Key heads on one GPU: where there are fewer heads than GPUs, each GPU holds a copy of one."""
        return max(1, mixer.kv_heads // self.tensor_parallel)


def window_tokens(mixer: Mixer) -> int | None:
    """The sliding window of a layer in tokens, None where it keeps the whole context."""
    return mixer.window_tokens if isinstance(mixer, Attention) else None
