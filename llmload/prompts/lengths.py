"""How long prompts and answers are to be, in tokens: a number, a distribution, or pairs of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, NamedTuple

Kind = Literal["fixed", "uniform", "normal", "lognormal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths in tokens, each at least 1, drawn from a distribution and then cut to its limits."""

    dist: Kind = "fixed"
    mean: float = 0.0
    """Of the distribution before its limits; a uniform one has only limits."""
    stdev: float = 0.0
    min: int = 1
    max: int | None = None

    def draw(self, random: Random) -> int:
        """Return a length."""
        if self.dist == "uniform":
            return random.randint(self.min, self.max or self.min)
        if self.dist == "fixed":
            return round(self.mean)
        if self.dist == "normal":
            drawn = random.gauss(self.mean, self.stdev)
        else:
            spread = math.log1p((self.stdev / self.mean) ** 2)  # of the logarithm: the moments of a lognormal variable
            drawn = random.lognormvariate(math.log(self.mean) - spread / 2, math.sqrt(spread))
        return max(self.min, min(round(drawn), math.inf if self.max is None else self.max))  # type: ignore[return-value] # an integer: no limit is drawn

    @property
    def typical(self) -> float:
        """The length that a request has on average, limits aside."""
        return (self.min + (self.max or self.min)) / 2 if self.dist == "uniform" else self.mean


class Shape(NamedTuple):
    """A pair of lengths, in tokens, and how often it is drawn, relative to the others."""

    input_tokens: int
    output_tokens: int
    weight: float = 1.0


class Asked(NamedTuple):
    """The tokens that a prompt and its answer are to have, as the engine counts them; None: not asked."""

    input_tokens: int | None = None
    output_tokens: int | None = None


NOTHING_ASKED: Final = Asked()


def asked_lengths(
    count: int, seed: int, inputs: Lengths | None, outputs: Lengths | None, shapes: Sequence[Shape] = ()
) -> list[Asked]:
    """Return what `count` prompts and answers are to have, the same for the same seed: of shapes, or of both."""
    if shapes:
        random = _random("shapes", seed)
        drawn = random.choices(shapes, [shape.weight for shape in shapes], k=count)
        return [Asked(shape.input_tokens, shape.output_tokens) for shape in drawn]
    ins, outs = _random("input tokens", seed), _random("output tokens", seed)
    return [
        Asked(None if inputs is None else inputs.draw(ins), None if outputs is None else outputs.draw(outs))
        for _ in range(count)
    ]


def _random(purpose: str, seed: int) -> Random:
    return Random(f"{purpose} {seed}")  # noqa: S311 - repeatable, not secret
