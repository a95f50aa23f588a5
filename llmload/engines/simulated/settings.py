"""Every knob of the simulated engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmload.engines.simulated.faults import KINDS
from llmload.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """
    What a simulated engine is asked to be; a value that cannot be raises ConfigError.

    `port` 0 picks a free one. `output_tokens` fixes the length of every answer; None draws it around
    `output_tokens_mean` (lognormal; `output_tokens_spread` is the standard deviation of its logarithm).
    `prefix_cache_tokens` is how many prompt tokens the prefix cache keeps; 0 is no cache.
    `faults` maps a kind of `faults.KINDS` to the share of requests that get it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    model: str = "simulated"
    slots: int = 32
    ttft_s: float = 0.05
    prefill_s_per_token: float = 0.0002
    itl_s: float = 0.02
    itl_load_factor: float = 1.0
    output_tokens: int | None = None
    output_tokens_mean: float = 128.0
    output_tokens_spread: float = 0.5
    max_model_len_tokens: int = 32768
    kv_cache_tokens: int = 65536
    prefix_cache_tokens: int = 0
    seed: int = 0
    faults: Mapping[str, float] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    log: Path | None = None
    log_chunks: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_faults()

    def _check_numbers(self) -> None:
        for name in ("slots", "output_tokens", "output_tokens_mean", "max_model_len_tokens", "kv_cache_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"simulated engine: {name} = {value} must be at least 1")
        if self.prefix_cache_tokens < 0:
            raise ConfigError(f"simulated engine: prefix_cache_tokens = {self.prefix_cache_tokens} must be 0 or more")
        for name in ("ttft_s", "prefill_s_per_token", "itl_s", "itl_load_factor", "output_tokens_spread"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"simulated engine: {name} = {value} must be a number of at least 0")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"simulated engine: port = {self.port} must be between 0 and 65535")

    def _check_faults(self) -> None:
        for kind, share in self.faults.items():
            if kind not in KINDS:
                raise ConfigError(f"simulated engine: no fault is called {kind!r}; there are {', '.join(KINDS)}")
            if not 0 <= share <= 1:
                raise ConfigError(f"simulated engine: fault {kind} = {share} must be a share between 0 and 1")
        if sum(self.faults.values()) > 1 + 1e-9:
            raise ConfigError(f"simulated engine: fault shares sum to {sum(self.faults.values()):g}, more than 1")
