"""Lengths of prompts and answers as a scenario has them: a number, a table of a distribution, or pairs."""

import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmload.prompts.lengths import LengthPlan, Lengths, Shape
from llmload.scenario.sections import NotNegative, Table

_MOST_TOKENS: Final = 10_000_000
MAX_SHAPES: Final = 1_000
Tokens = Annotated[int, Field(ge=1, le=_MOST_TOKENS)]
_KEYS: Final = {
    "fixed": ({"mean"},),
    "uniform": ({"min", "max"}, {"mean", "range_ratio"}),
    "normal": ({"mean", "stdev"},),
    "lognormal": ({"mean", "stdev"},),
}
"""The keys that each distribution needs, or one of the two sets."""


class TokenLengths(Table):
    """A distribution of lengths in tokens, of `input_tokens` or `output_tokens`; a number is that length for all."""

    dist: Literal["fixed", "uniform", "normal", "lognormal"] = "uniform"
    """`uniform` (by `min` and `max`, or `mean` and `range_ratio`), `normal`, `lognormal`, or `fixed` (by `mean`)."""
    mean: Annotated[float, Field(gt=0, le=_MOST_TOKENS)] | None = None
    """The mean, before `min` and `max` cut it."""
    stdev: NotNegative | None = None
    """The standard deviation of a normal or lognormal one, before `min` and `max` cut it."""
    min: Tokens | None = None
    """The least length: a shorter one that was drawn becomes it."""
    max: Tokens | None = None
    """The greatest length: a longer one that was drawn becomes it."""
    range_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """For r, lengths are uniform between mean x (1 - r) and mean x (1 + r)."""

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        given = {key for key in type(self).model_fields if key != "dist" and getattr(self, key) is not None}
        needed = _KEYS[self.dist]
        limits = {"min", "max"} if self.dist in {"normal", "lognormal"} else set[str]()
        if not any(keys <= given <= keys | limits for keys in needed):
            known = " or ".join(", ".join(sorted(keys)) for keys in needed)
            also = " (min and max may be given)" if limits else ""
            fitting = [repr(dist) for dist, sets in _KEYS.items() if given - {"min", "max"} in sets]
            instead = f": set dist = {' or '.join(fitting)}" if fitting else ""
            found = ", ".join(sorted(given)) or "nothing"
            raise ValueError(f"dist = {self.dist!r} is given by {known}{also}, not by {found}{instead}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min} is more than max = {self.max}")
        if self.mean is not None and self.mean < 1:
            raise ValueError(f"mean = {self.mean:g} is less than one token")
        if self.dist == "fixed" and self.mean != round(self.mean or 0):
            raise ValueError(f"mean = {self.mean:g}: tokens are whole")
        return self

    @property
    def drawn(self) -> Lengths:
        """What lengths are drawn from."""
        least, most, mean = self.min or 1, self.max, self.mean or 0.0
        if self.range_ratio is not None:
            least, most = max(1, round(mean * (1 - self.range_ratio))), round(mean * (1 + self.range_ratio))
        return Lengths(dist=self.dist, mean=mean, stdev=self.stdev or 0.0, min=least, max=most)

    def __str__(self) -> str:
        """The lengths as a scenario has them."""
        if self.dist == "fixed":
            return f"{self.mean:g}"
        given = ((key, getattr(self, key)) for key in type(self).model_fields if key != "dist")
        values = ", ".join(f"{key} = {value:g}" for key, value in given if value is not None)
        return f'{{dist = "{self.dist}", {values}}}'


def _as_table(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"dist": "fixed", "mean": value}
    if not isinstance(value, dict | TokenLengths):
        hint = "a length is a number of tokens, or a table such as {mean = 1024, range_ratio = 0.5}"
        raise ValueError(hint)  # noqa: TRY004 - pydantic reports no other as a fault of the file
    return value


AnyLengths = Annotated[TokenLengths, BeforeValidator(_as_table, json_schema_input_type=int | TokenLengths)]
"""A number of tokens, or a table of a distribution."""

_PAIR: Final = 2
_WEIGHTED: Final = 3


def _as_shape(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) not in {_PAIR, _WEIGHTED}:
        raise ValueError("a shape is [input tokens, output tokens], or these and its weight: [1024, 128, 0.5]")
    inputs, outputs, weight = value[0], value[1], value[2] if len(value) == _WEIGHTED else 1.0
    if any(type(each) is not int or not 1 <= each <= _MOST_TOKENS for each in (inputs, outputs)):
        raise ValueError("tokens are whole numbers of at least 1")
    if type(weight) not in {int, float} or not 0 < weight < math.inf:
        raise ValueError("the weight of a shape is a number above 0")
    return Shape(inputs, outputs, float(weight))


AnyShape = Annotated[Shape, BeforeValidator(_as_shape, json_schema_input_type=list[float])]
"""`[input tokens, output tokens]`, or these and a weight."""


def length_plan(inputs: TokenLengths | None, outputs: TokenLengths | None, shapes: Sequence[Shape]) -> LengthPlan:
    """Return what lengths are drawn from; ValueError where a key has what `shapes` has, or that has a pair twice."""
    for key, given in (("input_tokens", inputs), ("output_tokens", outputs)):
        if shapes and given is not None:
            raise ValueError(f"shapes has both lengths: remove {key}")
    pairs = [shape[:_PAIR] for shape in shapes]
    if twice := next((pair for pair in pairs if pairs.count(pair) > 1), None):
        raise ValueError(f"shapes has {list(twice)} twice: give it once, with the sum of its weights")
    return LengthPlan(
        input_tokens=None if inputs is None else inputs.drawn,
        output_tokens=None if outputs is None else outputs.drawn,
        shapes=tuple(shapes),
    )
