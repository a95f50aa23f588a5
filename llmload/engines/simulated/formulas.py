"""
The model of time and length: what a simulated answer costs, as formulas that can be checked by hand.

    prompt tokens   chat: sum over messages of 4 + ceil(UTF-8 bytes of its text / 4)
                    completions, TGI: ceil(UTF-8 bytes / 4); a list of token ids: its length
    TTFT            wait for a slot + ttft_s + prompt_tokens * prefill_s_per_token
                    with a prefix cache: the prompt tokens that are not cached when the request comes. Whole blocks of
                    16 tokens are cached, each known by all text before its end; the last token of a prompt never is
    gap             itl_s * (1 + itl_load_factor * (running - 1) / slots), `running` as the token before is written
    token k         due at TTFT + the sum of the k gaps before it: an absolute schedule, a late write moves no other
    answer tokens   output_tokens if fixed, else round(exp(mu + spread * z)), at least 1, z a standard normal
                    number drawn from the prompt and the seed, mu = ln(mean) - spread^2 / 2 (so the mean is the mean);
                    above max_tokens it is cut there (finish_reason "length"), with ignore_eos it is max_tokens

With itl_load_factor 0 and no queue every time is known beforehand, whatever else runs.
"""

import hashlib
import math
import random

from llmload.engines.simulated.settings import SimulationSettings

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4


def text_tokens(text: str) -> int:
    """Tokens that a text counts for: ceil(UTF-8 bytes / 4)."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def token_bytes(text: str) -> bytes:
    """The text as 4 bytes a token, the last one padded."""
    encoded = text.encode("utf-8", "surrogatepass")
    return encoded + b"\0" * (-len(encoded) % BYTES_PER_TOKEN)


def ttft_ns(settings: SimulationSettings, prompt_tokens: int) -> int:
    """Nanoseconds from having a slot to the first token: ttft_s + prompt_tokens * prefill_s_per_token."""
    return round((settings.ttft_s + prompt_tokens * settings.prefill_s_per_token) * 1e9)


def gap_ns(settings: SimulationSettings, running: int) -> int:
    """Nanoseconds between two tokens: itl_s * (1 + itl_load_factor * (running - 1) / slots)."""
    return round(settings.itl_s * (1 + settings.itl_load_factor * max(running - 1, 0) / settings.slots) * 1e9)


def prompt_number(settings: SimulationSettings, prompt: bytes) -> int:
    """The number in 0 .. 2^64 - 1 that the prompt and the seed fix; lengths and words follow from it."""
    digest = hashlib.blake2b(prompt, digest_size=8, salt=settings.seed.to_bytes(16, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")


def wanted_tokens(settings: SimulationSettings, number: int) -> int:
    """Tokens that an answer would have if nothing cut it: lognormal around the mean, at least 1."""
    if settings.output_tokens is not None:
        return settings.output_tokens
    spread = settings.output_tokens_spread
    mu = math.log(settings.output_tokens_mean) - spread**2 / 2
    z = random.Random(number).gauss(0.0, 1.0)  # noqa: S311 - a reproducible length, no secret
    return max(1, round(math.exp(mu + spread * z)))
