"""`[prompts]`, and the lengths that an entry of `[[mix]]` has in place of it."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmload.prompts.lengths import LengthPlan
from llmload.prompts.salts import SaltMode
from llmload.prompts.synthetic import SYNTHETIC
from llmload.prompts.workload import RepeatMode
from llmload.scenario.lengths import MAX_SHAPES, AnyLengths, AnyShape, length_plan
from llmload.scenario.sections import Count, Table


def _as_repeat_mode(value: object) -> object:
    return "salted" if value is True else value


def _as_salt_mode(value: object) -> object:
    return ("request" if value else None) if isinstance(value, bool) else value


def asks_inputs(keys: object) -> bool:
    """Return whether keys of a file, of `[prompts]` or of what an entry of a mix has in its place, size prompts."""
    return isinstance(keys, dict) and (keys.get("input_tokens") is not None or bool(keys.get("shapes")))


class Prompts(Table):
    """Which prompts are sent."""

    source: str = Field(default="builtin", min_length=1)
    """`builtin`, `synthetic` (made to a length of tokens), `lima` (GAIR/lima), `hf:OWNER/NAME/FILE` (both from the
    Hugging Face hub), or a file or folder."""
    split: str | None = None
    """The split of a source that has several; `train` where absent."""
    count: Count | None = None
    """Number of rows to draw at random, without replacement; all where absent. Of synthetic prompts, how many are made:
    1,000 where absent, fewer of long ones."""
    turns: Literal["first", "all"] = "first"
    """`first`: each row's first question; `all`: each question of a row, after the data set's own answers."""
    repeat: Annotated[
        Literal[False] | RepeatMode, BeforeValidator(_as_repeat_mode, json_schema_input_type=bool | RepeatMode)
    ] = False
    """Whether the drawn rows start over, reshuffled, when they run out. `salted`, or true: each prompt that is sent
    again has its own salt (see `salt`), so that the engine's prefix cache cannot answer it; the first pass has
    none. `same`: the same bytes again, as a cache likes it."""
    n_shot: Annotated[int, Field(ge=0)] = 0
    """Number of example pairs from the same data before each question."""
    chain_of_thought: bool | str = False
    """Whether each question ends with `Let's think step by step.`, or the text to use instead."""
    salt: Annotated[SaltMode | None, BeforeValidator(_as_salt_mode, json_schema_input_type=bool | SaltMode)] = None
    """A short text before the first message that no other request has (`request`, or true) or no other run (`run`), so
    that the engine's prefix cache cannot answer it; false for none."""
    salt_key: str | None = Field(default=None, min_length=1)
    """Makes this run's salts differ from those of another run with the same seed; the run's id where absent."""
    input_tokens: AnyLengths | None = None
    """How many tokens each prompt has, as the engine counts them: a number, or a distribution such as `{dist =
    "lognormal", mean = 1024, stdev = 512, max = 8192}`; llmload makes these prompts of the built-in ones' text."""
    output_tokens: AnyLengths | None = None
    """How many tokens each answer is to have, in the same form, in place of `request.max_tokens`. Engines that take
    `ignore_eos` or `min_tokens` are sent these, so that no answer is shorter."""
    shapes: list[AnyShape] = Field(default_factory=list, max_length=MAX_SHAPES)
    """Pairs of both that each prompt and its answer are drawn from, in place of the two: `[[1024, 128], [8192, 1024]]`;
    a third number is a pair's weight."""
    template: Literal["counted", "excluded"] = "counted"
    """Whether `input_tokens` include those of the engine's chat template."""
    exact_output: bool | list[Literal["ignore_eos", "min_tokens"]] = True
    """Whether answers are kept from ending before their length: by the fields of a request that the engine is found to
    take, or by these; false: they end where the model ends them, or at their length."""

    @model_validator(mode="before")
    @classmethod
    def _synthetic_by_default(cls, table: Any) -> Any:
        """Make prompts that are given a length synthetic, and each, unless salt is false, new to a prefix cache."""
        if not isinstance(table, dict):
            return table
        if asks_inputs(table) and table.get("source", "builtin") == "builtin":
            table = {**table, "source": SYNTHETIC}
        if table.get("source") != SYNTHETIC:
            return table
        table = {"salt": "request", **table}
        repeated = "salted" if table["salt"] else "same"
        return table if table.get("repeat", True) is not True else {**table, "repeat": repeated}

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        lengths = self.lengths
        if self.source != SYNTHETIC:
            if lengths.asks_inputs:
                key = "shapes" if self.shapes else "input_tokens"
                raise ValueError(f"{key} is of synthetic prompts, and source = {self.source!r}: remove one of them")
            return self
        set_ones = {"turns": self.turns != "first", "n_shot": self.n_shot, "chain_of_thought": self.chain_of_thought}
        if changed := [key for key, is_set in set_ones.items() if is_set]:
            raise ValueError(f"{changed[0]} would change the length of synthetic prompts: remove it")
        if self.repeat == "salted" and not self.salt:
            raise ValueError("repeat = 'salted' without salt would change the length of prompts: set repeat = 'same'")
        return self

    @model_validator(mode="after")
    def _key_has_salt(self) -> Self:
        if self.salt_key is not None and self.salting is None:
            raise ValueError(f"salt_key = {self.salt_key!r} has no effect without salt, or repeat = true")
        return self

    @property
    def lengths(self) -> LengthPlan:
        """What the lengths of prompts and answers are drawn from."""
        return length_plan(self.input_tokens, self.output_tokens, self.shapes)

    @property
    def salting(self) -> Literal["request", "run", "repeats"] | None:
        """Which requests are salted: each, each with the run's salt, or those that repeat another; None: none."""
        return self.salt or ("repeats" if self.repeat == "salted" else None)

    @property
    def repeats_are_new(self) -> bool:
        """Whether a prompt that is sent again is new to a prefix cache."""
        return self.salt == "request" or self.repeat == "salted"


class MixedLengths(Table):
    """The lengths of an entry's prompts and answers, in place of those in `[prompts]`."""

    input_tokens: AnyLengths | None = None
    """How many tokens each prompt of this entry has. Give every entry such a length, here or in `[prompts]`, or
    none: llmload does not mix synthetic prompts with those of a file."""
    output_tokens: AnyLengths | None = None
    """How many tokens each of its answers is to have, whatever its prompts are."""
    shapes: list[AnyShape] = Field(default_factory=list, max_length=MAX_SHAPES)
    """Pairs of both, in place of the two."""

    @property
    def lengths(self) -> LengthPlan:
        """What the lengths of prompts and answers are drawn from; ValueError where two keys have the same."""
        return length_plan(self.input_tokens, self.output_tokens, self.shapes)
