"""
Settings and faults of the simulated engine, and its formulas for lengths and times, which can be checked by hand.

    prompt tokens   chat: sum over messages of 4 + the tokens of its text
                    completions, TGI: the tokens of the text; a list of token ids: its length
                    tokenizer "bytes": ceil(UTF-8 bytes / 4); "words": see llmload.simulator.tokens
    TTFT            wait for a slot + ttft_s + prompt_tokens * prefill_s_per_token
                    with a prefix cache: only prompt tokens that are not cached when the request arrives. Whole blocks
                    of 16 tokens are cached, each known by all text up to its end; a prompt's last token never is
    gap             itl_s * (1 + itl_load_factor * (running - 1) / slots), `running` as the token before is written
    token k         due at TTFT + the sum of the k gaps before it: an absolute schedule, late writes move nothing
    answer tokens   output_tokens if fixed, else round(exp(mu + spread * z)), at least 1, z a standard normal
                    number drawn from the prompt and the seed, mu = ln(mean) - spread^2 / 2 (so that it has this mean);
                    it is at least min_tokens; max_tokens truncates it (finish_reason "length"), with ignore_eos it is
                    max_tokens; without `exact_output`, these two fields are refused, as Transformers does

With itl_load_factor 0 and no queue, every time is known beforehand and independent of other requests.
"""

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmload.access.address import HIGHEST_PORT
from llmload.errors import ConfigError
from llmload.simulator.tokens import Tokenizer
from llmload.units import NS_PER_S

FAULT_STATUS = {
    "http_400": 400,
    "http_401": 401,
    "http_404": 404,
    "http_429": 429,
    "http_500": 500,
    "http_503": 503,
    "html_error": 502,
}
"""Faults that answer at once with this status, without taking a slot."""

MID_ANSWER_FAULTS = frozenset({"error_event", "reset", "early_close", "no_finish", "stall", "malformed_chunk"})
"""Faults that strike half way, after ceil(output_tokens / 2) tokens."""

FAULTS: dict[str, str] = {
    "http_400": "HTTP 400 with a JSON error",
    "http_401": "HTTP 401 with a JSON error",
    "http_404": "HTTP 404 with a JSON error",
    "http_429": "HTTP 429 with Retry-After: 1 and a JSON error",
    "http_500": "HTTP 500 with a JSON error",
    "http_503": "HTTP 503 with a JSON error",
    "html_error": "HTTP 502 with an HTML page, as a proxy answers",
    "error_event": "an error object inside a 200 stream, half way (not streamed: HTTP 500)",
    "reset": "the connection is reset (RST) half way",
    "early_close": "the connection is closed half way, the HTTP body incomplete",
    "no_finish": "the HTTP body ends properly half way, but no finish_reason came (not streamed: HTTP 500)",
    "stall": "nothing more is written from half way on; connection and slot are held",
    "stall_first": "not one byte is written; connection and slot are held",
    "malformed_chunk": "half way, a chunk size that is not a number; then the connection is closed",
    "not_streamed": "one JSON answer although a stream was requested",
    "no_usage": "token counts are left out",
    "no_done": "the stream ends without data: [DONE]",
    "close_after": "the connection is closed after the answer although keep-alive was announced",
}


class FaultPicker:
    """Picks a fault or none for each arriving request, in the given shares; the same seed gives the same sequence."""

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a reproducible sequence, no secret
        self._shares = dict(shares)

    def next(self) -> str | None:
        """Return the fault of the next request, or None."""
        if not self._shares:
            return None
        drawn = self._random.random()
        for kind, share in self._shares.items():
            if drawn < share:
                return kind
            drawn -= share
        return None


REASONING_FORMS = ("field", "tags", "hidden")
"""Where the reasoning of an answer is: in `reasoning_content`, between `<think>` tags in the content, nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """
    The settings of a simulated engine; an impossible value raises ConfigError.

    `port` 0 picks a free one. `output_tokens` fixes the length of every answer; None draws it around
    `output_tokens_mean` (lognormal; `output_tokens_spread` is the standard deviation of its logarithm).
    `reasoning_tokens` are the first tokens of each chat answer: in a separate field, between `<think>` tags, or
    hidden (`reasoning_form`), counted in usage or not (`reasoning_counted`).
    `proxy_s` passes before a request reaches the engine, as at a slow proxy: its own series do not have it.
    `keeps_kv_cache`: a request waits until the KV cache has room for its prompt, and the youngest is put back (a
    preemption) when there is none for the next token; its prompt and its tokens so far are then computed again.
    `draft_tokens` are drafted a step, of which `accepted_draft_tokens` are accepted: counters alone, no time changes.
    `per_request_metrics`: usage has the times of each request, as vLLM's with `--enable-per-request-metrics`.
    `prefix_cache_tokens` is how many prompt tokens the prefix cache keeps; 0: no cache. `tokenize` is whether it has
    vLLM's route `/tokenize`, `exact_output` whether it takes `ignore_eos` and `min_tokens`.
    `faults` maps a name in `FAULTS` to the share of requests that get it.
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
    reasoning_tokens: int = 0
    reasoning_form: str = "field"
    reasoning_counted: bool = True
    per_request_metrics: bool = False
    proxy_s: float = 0.0
    keeps_kv_cache: bool = False
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    max_model_len_tokens: int = 32768
    kv_cache_tokens: int = 65536
    prefix_cache_tokens: int = 0
    tokenizer: Tokenizer = "bytes"
    tokenize: bool = True
    exact_output: bool = True
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
        for name in ("prefix_cache_tokens", "reasoning_tokens", "draft_tokens", "accepted_draft_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"simulated engine: {name} = {getattr(self, name)} must be 0 or more")
        if self.accepted_draft_tokens > self.draft_tokens:
            text = (
                f"accepted_draft_tokens = {self.accepted_draft_tokens} is more than draft_tokens = {self.draft_tokens}"
            )
            raise ConfigError(f"simulated engine: {text}")
        if self.reasoning_form not in REASONING_FORMS:
            raise ConfigError(
                f"simulated engine: reasoning_form = {self.reasoning_form} must be one of {', '.join(REASONING_FORMS)}"
            )
        for name in ("ttft_s", "prefill_s_per_token", "itl_s", "itl_load_factor", "output_tokens_spread", "proxy_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"simulated engine: {name} = {value} must be a number of at least 0")
        if not 0 <= self.port <= HIGHEST_PORT:
            raise ConfigError(f"simulated engine: port = {self.port} must be between 0 and {HIGHEST_PORT}")

    def _check_faults(self) -> None:
        for kind, share in self.faults.items():
            if kind not in FAULTS:
                raise ConfigError(f"simulated engine: no fault is called {kind!r}; there are {', '.join(FAULTS)}")
            if not 0 <= share <= 1:
                raise ConfigError(f"simulated engine: fault {kind} = {share} must be a share between 0 and 1")
        if sum(self.faults.values()) > 1 + 1e-9:
            raise ConfigError(f"simulated engine: fault shares sum to {sum(self.faults.values()):g}, more than 1")


TOKENS_PER_MESSAGE = 4


def ttft_ns(settings: SimulationSettings, prompt_tokens: int) -> int:
    """Return the time from getting a slot to the first token: ttft_s + prompt_tokens * prefill_s_per_token."""
    return round((settings.ttft_s + prompt_tokens * settings.prefill_s_per_token) * NS_PER_S)


def gap_ns(settings: SimulationSettings, running: int) -> int:
    """Return the time between two tokens: itl_s * (1 + itl_load_factor * (running - 1) / slots)."""
    return round(settings.itl_s * (1 + settings.itl_load_factor * max(running - 1, 0) / settings.slots) * NS_PER_S)


def hash_prompt(settings: SimulationSettings, prompt: bytes) -> int:
    """Return a hash of prompt and seed, 0 to 2^64 - 1; length and words of the answer follow from it."""
    digest = hashlib.blake2b(prompt, digest_size=8, salt=settings.seed.to_bytes(16, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")


def wanted_tokens(settings: SimulationSettings, prompt_hash: int) -> int:
    """Return the tokens of an answer that no limit truncates: lognormal around the mean, at least 1."""
    if settings.output_tokens is not None:
        return settings.output_tokens
    spread = settings.output_tokens_spread
    mu = math.log(settings.output_tokens_mean) - spread**2 / 2
    z = random.Random(prompt_hash).gauss(0.0, 1.0)  # noqa: S311 - a reproducible length, no secret
    return max(1, round(math.exp(mu + spread * z)))
