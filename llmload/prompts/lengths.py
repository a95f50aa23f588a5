"""How long prompts and answers are to be, in tokens: a number, a distribution, or pairs of both."""

import math
from collections.abc import Iterator
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPlan:
    """How long the prompts and the answers of a kind of request are to be: each by itself, or as pairs; None: any."""

    input_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    shapes: tuple[Shape, ...] = ()

    @property
    def asks_inputs(self) -> bool:
        """Whether prompts are to have a length."""
        return bool(self.shapes) or self.input_tokens is not None

    @property
    def asks_outputs(self) -> bool:
        """Whether answers are to have a length."""
        return bool(self.shapes) or self.output_tokens is not None

    @property
    def typical_input(self) -> float:
        """The tokens of a prompt, of the longest shape where there are several; 1 where they are not asked."""
        if self.shapes:
            return max(shape.input_tokens for shape in self.shapes)
        return 1.0 if self.input_tokens is None else max(1.0, self.input_tokens.typical)

    def draw(self, seed: int) -> Iterator[Asked]:
        """Yield lengths without end, the same for the same seed."""
        random, ins, outs = (_random(purpose, seed) for purpose in ("shapes", "input tokens", "output tokens"))
        weights = [shape.weight for shape in self.shapes]
        inputs, outputs = self.input_tokens, self.output_tokens
        while True:
            if weights:
                (shape,) = random.choices(self.shapes, weights)
                yield Asked(shape.input_tokens, shape.output_tokens)
            else:
                yield Asked(
                    None if inputs is None else inputs.draw(ins), None if outputs is None else outputs.draw(outs)
                )


def _random(purpose: str, seed: int) -> Random:
    return Random(f"{purpose} {seed}")  # noqa: S311 - repeatable, not secret
