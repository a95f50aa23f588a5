"""A Hugging Face config: each value checked when it is read, each error naming file, key and value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmload.errors import ConfigError, shown

# GPT-2, MPT, T5 and their variants name the same thing differently.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("d_model", "n_embd"),
    "num_hidden_layers": ("num_layers", "n_layers", "n_layer"),
    "num_attention_heads": ("num_heads", "n_heads", "n_head"),
    "num_key_value_heads": ("num_kv_heads",),
    "intermediate_size": ("d_ff", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
    "n_routed_experts": ("num_local_experts", "num_experts"),
}


_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MAX_COUNT = 2**32
_MAX_LAYERS = 10_000
_LAYERS = frozenset({"num_hidden_layers", "num_decoder_layers"})


@dataclass(frozen=True, slots=True)
class HfConfig:
    """A config dict and where it came from."""

    values: Mapping[str, Any]
    source: str

    @property
    def model_type(self) -> str:
        """The architecture's name; raises ConfigError where the config has none."""
        return self.text("model_type")

    def text(self, key: str, default: str | None = None) -> str:
        """Return the string under key; ConfigError when it is missing without a default, or not a string."""
        value = self.values.get(key, default)
        if value is None:
            raise self.refusal(f"{key} is missing")
        if not isinstance(value, str):
            raise self.refusal(f"{key} = {shown(value)} is not a string")
        return value

    def has(self, key: str) -> bool:
        """Return whether the config states key, under any of its names, with a value other than null."""
        return self._find(key)[1] is not None

    def count(self, key: str, default: int | None = None) -> int:
        """Return the positive whole number under key; raises ConfigError when it is missing without a default."""
        name, value = self._find(key)
        if value is None:
            value = default
        if value is None:
            raise self.refusal(
                f"{key} is missing, and {self.values.get('model_type', 'the model')} cannot be sized without it"
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refusal(f"{name} = {shown(value)} is not a positive whole number")
        most = _MAX_LAYERS if key in _LAYERS else _MAX_COUNT
        if value > most:
            raise self.refusal(f"{name} has {len(str(value))} digits; no model has more than {most:,}")
        return value

    def of_layer(self, key: str, layer: int, default: int | None = None) -> int:
        """Return the positive whole number under key, where it is a list the layer's; ConfigError for another value."""
        name, value = self._find(key)
        if isinstance(value, list):
            if layer >= len(value):
                raise self.refusal(f"{name} has {len(value)} entries, none for layer {layer}")
            return HfConfig({key: value[layer]}, self.source).count(key)
        return self.count(key, default)

    def whole(self, key: str, default: int) -> int:
        """Return the whole number under key, which may be 0; ConfigError for another value."""
        value = self._find(key)[1]
        return default if value is None else 0 if value == 0 else self.count(key)

    def optional_count(self, key: str) -> int | None:
        """Return the positive whole number under key, or None where the config has none."""
        return self.count(key) if self.has(key) else None

    def flag(self, key: str, *, default: bool) -> bool:
        """Return the boolean under key; raises ConfigError when it is something else."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refusal(f"{key} = {shown(value)} is neither true nor false")
        return value

    def fraction(self, key: str, default: float) -> float:
        """Return the number in (0, 1] under key, here or in rope_parameters; raises ConfigError for another value."""
        rope = self.values.get("rope_parameters")
        value = self.values.get(key)
        if value is None and isinstance(rope, Mapping):
            value = rope.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or not 0 < value <= 1:
            raise self.refusal(f"{key} = {shown(value)} is not a fraction between 0 and 1")
        return float(value)

    def element_bytes(self, key: str, default: int) -> int:
        """Return the bytes of one element of the dtype under key; ConfigError for one that is not known."""
        dtype = self.text(key, "")
        if dtype and dtype not in _DTYPE_BYTES:
            raise self.refusal(f"{key} = {shown(dtype)} is not one of {', '.join(_DTYPE_BYTES)}")
        return _DTYPE_BYTES.get(dtype, default)

    def renamed(self, names: Mapping[str, str], defaults: Mapping[str, int]) -> "HfConfig":
        """Return a config that also has what it states under other names, and defaults for what it does not state."""
        named = {key: self.values[own] for key, own in names.items() if own in self.values and not self.has(key)}
        found = HfConfig({**self.values, **named}, self.source)
        missing = {key: value for key, value in defaults.items() if not found.has(key)}
        return HfConfig({**found.values, **missing}, self.source) if missing else found

    def refusal(self, problem: str) -> ConfigError:
        """Return a ConfigError that names this config and the problem."""
        return ConfigError(f"{self.source}: {problem}")

    def _find(self, key: str) -> tuple[str, Any]:
        for name in (key, *_ALIASES.get(key, ())):
            value = self.values.get(name)
            if value is not None:
                return name, value
        return key, None
