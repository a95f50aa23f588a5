"""`[request]`: the fields of a request, and `[[mix]]`: kinds of requests that differ in them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from llmload.metrics.by_name import MAX_NAME_CHARACTERS, as_name
from llmload.prompts.lengths import LengthPlan
from llmload.prompts.synthetic import SYNTHETIC
from llmload.prompts.workload import EXACT_OUTPUT, MixedIn
from llmload.scenario.prompts import MixedLengths, Prompts
from llmload.scenario.sections import Count, NotNegative, Positive, Table


class Request(Table):
    """The parameters of a request besides its messages; those that are not set are not sent."""

    stream: bool = True
    """Whether the answer is streamed; without a stream there is no TTFT, TPOT or ITL."""
    include_usage: bool | None = None
    """Whether the stream ends with the engine's token counts (`stream_options.include_usage`); true where absent."""
    reasoning: Literal["field", "tags"] = "field"
    """Where a model's reasoning is: in a separate field (`reasoning`, `reasoning_content`), or between `<think>`
    and `</think>` in the text, as engines without a reasoning parser send it. Each chunk is then parsed, which takes
    longer."""
    max_tokens: Count | None = None
    """Upper limit of output tokens."""
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    """Lower limit of output tokens."""
    ignore_eos: bool | None = None
    """Whether the answer continues after the end-of-sequence token, up to `max_tokens`."""
    temperature: NotNegative | None = None
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling: the probability mass of the tokens to choose from."""
    top_k: int | None = None
    """Number of tokens to choose from."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least probability of a token, relative to the most likely one."""
    presence_penalty: float | None = None
    """Penalty of tokens that have occurred."""
    frequency_penalty: float | None = None
    """Penalty of tokens by how often they have occurred."""
    repetition_penalty: Positive | None = None
    """Factor against tokens of the prompt and the answer so far; above 1 discourages them."""
    seed: int | None = None
    """The engine's sampling seed."""
    stop: list[str] | None = None
    """Texts that end the answer."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request's JSON."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        sent = {"model", "messages", "stream", "stream_options", *self.sampling()}
        if twice := sorted(sent & self.extra_body.keys()):
            raise ValueError(f"extra_body repeats {twice[0]}, which llmload sends already")
        if self.ignore_eos and self.max_tokens is None:
            raise ValueError("ignore_eos = true never ends without max_tokens")
        if self.reasoning == "tags" and self.extra_body.get("n", 1) != 1:
            raise ValueError("reasoning = 'tags' needs one answer a request: remove n from extra_body")
        if self.include_usage and not self.stream:
            raise ValueError("include_usage belongs to a stream, but stream = false")
        return self

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters that are set."""
        own = {"stream", "include_usage", "reasoning", "extra_body"}
        return self.model_dump(exclude=own, exclude_none=True)

    def body(self) -> dict[str, Any]:
        """Return every field of the request that the scenario sets, without model, messages and stream."""
        return {**self.sampling(), **self.extra_body}


def _as_entry_name(name: str) -> str:
    if as_name(name) != name:
        raise ValueError(f"must be on one line, with at most {MAX_NAME_CHARACTERS} characters and no space around it")
    return name


def _as_request(keys: dict[str, Any]) -> dict[str, Any]:
    """Return keys of `[request]`; ValueError, with the key, where they are none or must be the same for all."""
    for key in ("stream", "include_usage", "reasoning"):
        if key in keys:
            raise ValueError(f"{key} belongs to [request]: it is the same for the whole mix")
    try:
        Request.model_validate(keys)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{where}{where and ': '}{fault['msg'].removeprefix('Value error, ')}") from None
    return keys


class MixEntry(Table):
    """A kind of request among several: each prompt that is drawn becomes one of them, at random by their weights."""

    name: Annotated[str, Field(min_length=1), AfterValidator(_as_entry_name)]
    """Its row in tables by name."""
    weight: Positive = 1.0
    """How often it is drawn, relative to the weights of the others."""
    request: Annotated[dict[str, Any], AfterValidator(_as_request)] = Field(default_factory=dict)
    """Keys of `[request]` that differ; `stream`, `include_usage` and `reasoning` are those of all."""

    prompts: MixedLengths = MixedLengths()
    """The lengths of its prompts and answers, in place of those in `[prompts]` (docs/lengths.md)."""

    @model_validator(mode="after")
    def _answers_have_one_length(self) -> Self:
        if self.prompts.lengths.asks_outputs:
            for key in ("max_tokens", "max_completion_tokens", *EXACT_OUTPUT):
                if key in self.fields:
                    raise ValueError(
                        f"prompts has the length of its answers, so request.{key} is set by it: remove one of them"
                    )
        return self

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of its requests in place of those of others."""
        return Request.model_validate(self.request).body()

    def lengths_beside(self, others: LengthPlan) -> LengthPlan:
        """
        Return its own lengths, and where it has none those of `[prompts]`.

        ValueError where it has one alone, and those of `[prompts]` are pairs.
        """
        own = self.prompts.lengths
        if own.asks_inputs and own.asks_outputs:
            return own
        if not own.asks_inputs and not own.asks_outputs:
            return others
        if others.shapes:
            raise ValueError(
                f"mix entry {self.name!r} has one length, and prompts.shapes has pairs: give the entry both lengths"
            )
        return LengthPlan(
            input_tokens=own.input_tokens or others.input_tokens,
            output_tokens=own.output_tokens or others.output_tokens,
        )

    def mixed_in(self, others: LengthPlan) -> MixedIn:
        """Return the entry as a part of a plan whose other lengths are these."""
        return MixedIn(self.name, self.weight, self.fields, self.lengths_beside(others))


def check_lengths(prompts: Prompts, mix: Sequence[MixEntry], *, swept: bool) -> None:
    """Raise ValueError where lengths are missing, do nothing, or fit neither the source of prompts nor a sweep."""
    if prompts.source == SYNTHETIC and not mix and not prompts.lengths.asks_inputs:
        raise ValueError(
            "prompts.source = 'synthetic' needs the length of its prompts: set prompts.input_tokens = 1024, or "
            "prompts.shapes"
        )
    for entry in mix:
        _check_entry(entry, prompts, swept=swept)
    own = [entry.prompts.lengths for entry in mix]
    replaced = {
        "input_tokens": all(each.asks_inputs for each in own),
        "output_tokens": all(each.asks_outputs for each in own),
        "shapes": all(each.asks_inputs for each in own),
    }
    for key, by_all in replaced.items():
        if mix and by_all and getattr(prompts, key):
            raise ValueError(f"prompts.{key} has no effect, since each entry of [[mix]] has its own: leave it out")


def _check_entry(entry: MixEntry, prompts: Prompts, *, swept: bool) -> None:
    lengths, named = entry.lengths_beside(prompts.lengths), f"mix entry {entry.name!r}"
    if swept and entry.prompts != MixedLengths():
        raise ValueError(
            f"{named} has its own lengths, and a sweep measures each of prompts.shapes: remove one of them, or set "
            "load.each_shape = false"
        )
    if prompts.source == SYNTHETIC and not lengths.asks_inputs:
        raise ValueError(
            f"{named} has no input_tokens, and synthetic prompts need a length: give it prompts = {{ input_tokens = "
            "1024 }, or set prompts.input_tokens for all entries without"
        )
    if lengths.asks_inputs and prompts.source != SYNTHETIC:
        raise ValueError(
            f"{named} has input_tokens, which are of synthetic prompts, and prompts.source = {prompts.source!r}: "
            "remove one of them"
        )
