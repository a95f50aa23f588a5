"""The work that every client does."""

import re
from dataclasses import dataclass
from typing import Final, Self

from benchmarks.tools.truth_engine.engine import Schedule

FORM: Final = re.compile(r"(\d+)x(\d+(?:\.\d+)?)x(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`streams` at a time, each at `tokens_per_s`, each answer of `tokens` tokens, a token a chunk."""

    streams: int
    tokens_per_s: float
    tokens: int
    ttft_s: float = 0.050
    ttft_spread_s: float = 0.005
    """Spread of the first chunks, so that streams that start together do not stay in step."""
    prompt_words: int = 40
    prompts: int | None = None
    """Number of different prompts; None: as many as requests."""
    chunk_bytes: int = 0
    large_first: int = 0
    tls: bool = False
    ramp_s: float = 5.0
    """Clients that can start their users over this time, so that connections are not all opened at once."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the work that `STREAMSxRATExTOKENS` describes; ValueError if it does not."""
        found = FORM.fullmatch(text)
        if found is None or float(found[2]) == 0 or "0" in (found[1], found[3]):
            raise ValueError(f"{text!r} is not STREAMSxTOKENS_PER_SxTOKENS, such as 200x100x128")
        return cls(streams=int(found[1]), tokens_per_s=float(found[2]), tokens=int(found[3]))

    @property
    def label(self) -> str:
        """How the work is written, `200x100x128`."""
        return f"{self.streams}x{self.tokens_per_s:g}x{self.tokens}{' https' if self.tls else ''}"

    @property
    def schedule(self) -> Schedule:
        """The engine's schedule for this work."""
        return Schedule(
            tokens=self.tokens,
            ttft_s=self.ttft_s,
            ttft_spread_s=self.ttft_spread_s,
            gap_s=1 / self.tokens_per_s,
            chunk_bytes=self.chunk_bytes,
            large_first=self.large_first,
        )

    @property
    def answer_s(self) -> float:
        """How long an answer takes, from the arrival of its request."""
        return self.ttft_s + (self.tokens - 1) / self.tokens_per_s

    @property
    def offered_tokens_per_s(self) -> float:
        """The rate of a client that loses no time."""
        return self.streams * self.tokens / self.answer_s
