"""A scenario as types: each table of the file is a model, and settings that contradict each other are errors."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from llmload.access.address import checked_base_url
from llmload.access.secrecy import Access, masked_command
from llmload.errors import ConfigError
from llmload.metrics.by_name import MAX_NAME_CHARACTERS, MAX_NAMES, as_name
from llmload.prompts.lengths import Shape
from llmload.prompts.salts import SaltMode
from llmload.prompts.synthetic import SYNTHETIC
from llmload.prompts.workload import PromptPlan, RepeatMode
from llmload.record import Slo
from llmload.scenario.headers import FromEnvironment, Headers, VariableName, from_environment, mistake_in_name, variable
from llmload.scenario.lengths import MAX_SHAPES, AnyLengths, AnyShape
from llmload.scenario.loads import AnyLoad
from llmload.scenario.sections import Compare, Cost, Count, Gates, Monitor, NotNegative, Positive, Table

EngineName = Literal[
    "transformers", "vllm", "tgi", "sglang", "llama.cpp", "lmdeploy", "tensorrt-llm", "simulated", "other"
]
ENGINE_LABELS: Final[Mapping[str, str]] = {
    "transformers": "Transformers",
    "vllm": "vLLM",
    "tgi": "TGI",
    "sglang": "SGLang",
    "llama.cpp": "llama.cpp",
    "lmdeploy": "LMDeploy",
    "tensorrt-llm": "TensorRT-LLM",
    "simulated": "simulated engine",
    "other": "other engine",
}
Precision = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4"]


def _as_urls(value: object) -> object:
    urls = [value] if isinstance(value, str) else value
    if isinstance(urls, list) and all(isinstance(url, str) for url in urls):
        return list(map(checked_base_url, urls))
    return urls


def _as_repeat_mode(value: object) -> object:
    return "salted" if value is True else value


def _as_salt_mode(value: object) -> object:
    return ("request" if value else None) if isinstance(value, bool) else value


def _as_id_header(name: str | Literal[False]) -> str | Literal[False]:
    if name is not False and (mistake := mistake_in_name(name)):
        raise ValueError(mistake)
    return name


class Engine(Table):
    """The engine under test: its address and its API."""

    name: EngineName
    """Which engine it is; `other` for one that is not in the list."""
    base_url: Annotated[
        list[str], BeforeValidator(_as_urls, json_schema_input_type=str | list[str]), Field(min_length=1)
    ]
    """The address, with or without `/v1`; requests take the URLs of a list in turn."""
    label: str | None = None
    """The name in tables; the engine's usual name where absent."""
    api: Literal["openai-chat", "tgi-generate"] = "openai-chat"
    """The protocol: OpenAI's `/v1/chat/completions`, or TGI's `/generate_stream`."""
    api_key_env: VariableName | None = None
    """The environment variable with the API key, sent as `Authorization: Bearer`; a key never belongs in a file."""
    headers: Headers = Field(default_factory=dict)
    """Further headers of every request: a text, or `{ env = "NAME" }` for the value of an environment variable, which
    is kept as secret as the key."""
    ca_file: str | None = None
    """A PEM file with the certificates that the server's is checked against; the system's where absent."""
    verify_tls: bool = True
    """Whether the server's certificate is checked."""

    @model_validator(mode="after")
    def _one_authorization(self) -> Self:
        if self.api_key_env is not None and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("api_key_env and headers both set Authorization: remove one of them")
        return self

    @property
    def secret_names(self) -> list[str]:
        """The environment variables whose values are sent to the engine."""
        from_env = [value.env for value in self.headers.values() if isinstance(value, FromEnvironment)]
        return [*filter(None, [self.api_key_env]), *from_env]

    @property
    def display_name(self) -> str:
        """The engine's name in tables."""
        return self.label or ENGINE_LABELS[self.name]


SERVED_MODEL: Final = "auto"
"""As the name of a model: the one that the engine serves."""


class Model(Table):
    """The model under test."""

    name: str = Field(min_length=1)
    """The model's name in tables; `auto`: the one that the engine serves, by its `/v1/models`."""
    served_as: str | None = Field(default=None, min_length=1)
    """The name in requests, where the engine expects another one (a path, a hub id)."""
    catalogue: str | None = Field(default=None, min_length=1)
    """The name that `llmload vram` knows, or the path of the model's config, where that differs."""

    @property
    def request_name(self) -> str:
        """The model's name in requests."""
        return self.served_as or self.name


class Deployment(Table):
    """The machine under test, for reports and sizing; never sent."""

    gpu: str | None = None
    """The GPU model, as `llmload vram gpus` names it."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """The number of GPUs."""
    tensor_parallel: Count | None = None
    """The GPUs that share each layer."""
    precision: Precision | None = None
    """The format of the weights."""
    engine_version: str | None = None
    """The engine's version, where the engine does not report it."""
    command: Annotated[str, AfterValidator(masked_command)] | None = None
    """The command that starts the engine, so that the run can be repeated; a password or key in it becomes `***`."""

    @model_validator(mode="after")
    def _ranks_have_gpus(self) -> Self:
        if self.tensor_parallel and self.gpus is not None and self.tensor_parallel > max(1, self.gpus):
            raise ValueError(f"tensor_parallel = {self.tensor_parallel} needs as many GPUs, but gpus = {self.gpus}")
        return self


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
    "lognormal", mean = 1024, stdev = 512, max = 8192}`; such prompts are synthetic, made of the built-in ones' text."""
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
        """Make prompts that are given a length synthetic, and each of these new to a prefix cache."""
        if not isinstance(table, dict):
            return table
        has_length = table.get("input_tokens") is not None or bool(table.get("shapes"))
        if has_length and table.get("source", "builtin") == "builtin":
            table = {**table, "source": SYNTHETIC}
        if table.get("source") != SYNTHETIC:
            return table
        table = {"salt": "request", **table}
        return {"repeat": "salted" if table["salt"] else "same", **table}

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        for key in ("input_tokens", "output_tokens"):
            if self.shapes and getattr(self, key) is not None:
                raise ValueError(f"shapes has both lengths: remove {key}")
        pairs = [shape[:2] for shape in self.shapes]
        if twice := next((pair for pair in pairs if pairs.count(pair) > 1), None):
            raise ValueError(f"shapes has {list(twice)} twice: give it once, with the sum of its weights")
        if self.source != SYNTHETIC:
            if self.input_tokens is not None or self.shapes:
                key = "shapes" if self.shapes else "input_tokens"
                raise ValueError(f"{key} is of synthetic prompts, and source = {self.source!r}: remove one of them")
            return self
        if self.input_tokens is None and not self.shapes:
            raise ValueError("source = 'synthetic' needs the length of its prompts: input_tokens = 1024, or shapes")
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
    def salting(self) -> Literal["request", "run", "repeats"] | None:
        """Which requests are salted: each, each with the run's salt, or those that repeat another; None: none."""
        return self.salt or ("repeats" if self.repeat == "salted" else None)

    @property
    def repeats_are_new(self) -> bool:
        """Whether a prompt that is sent again is new to a prefix cache."""
        return self.salt == "request" or self.repeat == "salted"


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

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of its requests in place of those of others."""
        return Request.model_validate(self.request).body()


class TimeoutLimits(Table):
    """
    Time limits of each part of a request.

    One that passes ends the request within 0.1 s, and the error has its name: `connect_timeout`, `first_token_timeout`,
    `between_tokens_timeout` or `total_timeout`.
    """

    connect_s: Positive = 10.0
    """Until the connection is open: name resolution, all addresses of the name, a proxy's tunnel and TLS."""
    first_token_s: Positive = 120.0
    """From sending the request to its first token."""
    between_tokens_s: Positive = 60.0
    """Between two tokens."""
    total_s: Positive = 600.0
    """From when the request was due to its last byte: connecting, retries and the pauses before them included. No
    request is sent once it has passed."""


class Client(Table):
    """The client that sends the requests, its retries and its time limits."""

    kind: Literal["wire", "openai"] = "wire"
    """llmload's own client, or OpenAI's Python SDK."""
    retries: Annotated[int, Field(ge=0)] = 0
    """How often a request is sent again after a failure that may pass: after as long as the engine's Retry-After says;
    without one after 0.5 s, 1 s, 2 s and so on, at most 8 s. Where that pause does not fit in `timeouts.total_s`, the
    request is not sent again, and its error says so."""
    request_id_header: Annotated[Literal[False] | str, AfterValidator(_as_id_header)] = "X-Request-Id"
    """The header with the request's id, which is `request_id` in `requests.jsonl`, so that it is found in the engine's
    log; the same at each retry. False sends none."""
    stamps: Literal["auto", "packet", "socket", "user"] = "auto"
    """Who takes the time stamps of arrivals: the kernel's packet ring (`packet`, needs CAP_NET_RAW), the kernel as each
    socket is read (`socket`), or this process once it has read (`user`). `auto` takes the best that works."""
    timeouts: TimeoutLimits = TimeoutLimits()
    """Time limits of a request."""

    @model_validator(mode="after")
    def _has_such_stamps(self) -> Self:
        if self.kind == "openai" and self.stamps in ("packet", "socket"):
            raise ValueError(f"stamps = '{self.stamps}' needs kind = 'wire': the SDK's stamps are the process's own")
        return self


class SloLimits(Table):
    """Limits of a good request; goodput counts the requests within all of them."""

    ttft_s: Positive | None = None
    """Upper limit of the time to the first token."""
    ttfa_s: Positive | None = None
    """Upper limit of the time to the first token of the answer, after the reasoning of a model that reasons."""
    tpot_s: Positive | None = None
    """Upper limit of the mean time per output token after the first."""
    e2e_s: Positive | None = None
    """Upper limit of the time to the last byte."""


class Run(Table):
    """How the run ends and what it writes."""

    folder: str = "runs"
    """Where run folders are created; relative to the working directory."""
    drain_timeout_s: NotNegative = 60.0
    """How long requests in flight may take to finish at the end; those that are cut off count as censored."""
    record_chunks: bool = True
    """Whether `requests.jsonl` has the gaps between chunks."""


class Identity(Table):
    """The scenario's name, and the seed of everything random."""

    name: str = Field(min_length=1)
    """The name, which is a part of the run folder's name."""
    description: str | None = None
    """What the scenario measures, in a sentence."""
    seed: int = 0
    """Determines the prompts, their order, arrivals and salts."""
    protocol: Literal["speed", "throughput"] | None = None
    """The table of the reference document that a run belongs to."""


class Scenario(Table):
    """Everything that a run depends on."""

    scenario: Identity
    engine: Engine
    model: Model
    deployment: Deployment = Deployment()
    prompts: Prompts = Prompts()
    request: Request = Request()
    mix: Annotated[list[MixEntry], Field(max_length=MAX_NAMES)] = Field(default_factory=list)
    client: Client = Client()
    load: AnyLoad
    slo: SloLimits = SloLimits()
    gates: Gates = Gates()
    compare: Compare = Compare()
    monitor: Monitor = Monitor()
    cost: Cost | None = None
    run: Run = Run()

    @model_validator(mode="after")
    def _tables_agree(self) -> Self:
        if self.client.kind == "openai" and self.engine.api != "openai-chat":
            raise ValueError(f"client.kind = 'openai' does not support engine.api = {self.engine.api!r}")
        id_header = str(self.client.request_id_header).lower()
        if any(name.lower() == id_header for name in self.engine.headers):
            raise ValueError(
                f"engine.headers sets {self.client.request_id_header}, which has the request's id: remove it, or set "
                "client.request_id_header to another name or false"
            )
        streamed = (self.slo.ttft_s, self.slo.ttfa_s, self.slo.tpot_s)
        if not self.request.stream and any(limit is not None for limit in streamed):
            raise ValueError("slo.ttft_s, ttfa_s and tpot_s are not measurable with request.stream = false")
        if self.cost is not None and self.cost.price_per_gpu_hour is not None and not self.deployment.gpus:
            raise ValueError("cost.price_per_gpu_hour needs the number of GPUs in deployment.gpus")
        if self.cost is not None and self.cost.price_per_kwh is not None and self.monitor.dcgm_url is None:
            raise ValueError("cost.price_per_kwh needs the GPUs' energy counters: set monitor.dcgm_url")
        asked = self.load.ends_after_requests
        drawn = self.prompts.count
        runs_out = asked is not None and drawn is not None and asked > drawn
        if runs_out and not self.prompts.repeat and self.prompts.turns == "first":
            raise ValueError(f"load.requests = {asked} is more than prompts.count = {drawn}; set prompts.repeat")
        return self

    @model_validator(mode="after")
    def _mix_has_names(self) -> Self:
        names = [entry.name for entry in self.mix]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"mix has two entries named {twice[0]!r}: give each its own name")
        return self

    @model_validator(mode="after")
    def _load_fits(self) -> Self:
        slo = bool(self.slo_limits().limits)
        self.load.check_scenario(
            slo=slo,
            stream=self.request.stream,
            repeat=bool(self.prompts.repeat),
            new_to_cache=self.prompts.repeats_are_new,
        )
        return self

    def slo_limits(self) -> Slo:
        """Return the limits of a good request."""
        return Slo(**self.slo.model_dump())

    @property
    def relied_on(self) -> tuple[str, ...]:
        """The figures that decide, beside those of gates, how far the run can be trusted: its load's and `[slo]`'s."""
        return (*self.load.headline, *(("goodput_per_min", "goodput_share") if self.slo_limits().limits else ()))

    @property
    def swept_shapes(self) -> tuple[Shape, ...]:
        """The shapes of which each has its own ladder; none where the load does not sweep over them."""
        return tuple(self.prompts.shapes) if self.load.sweeps_shapes else ()

    def prompt_plan(self) -> PromptPlan:
        """Return which prompts are drawn, and how."""
        prompts = self.prompts
        return PromptPlan(
            **prompts.model_dump(include={"source", "split", "count", "turns", "repeat", "n_shot", "chain_of_thought"}),
            seed=self.scenario.seed,
            input_tokens=None if prompts.input_tokens is None else prompts.input_tokens.drawn,
            output_tokens=None if prompts.output_tokens is None else prompts.output_tokens.drawn,
            shapes=tuple(prompts.shapes),
            holds_outputs=prompts.exact_output is not False,
            salted=prompts.salt is not None,
            template_counts=prompts.template == "counted",
        )

    def access(self) -> Access:
        """Return what the engine asks of those who send to it; ConfigError if a variable's value is not usable."""
        engine, key = self.engine, None
        if engine.api_key_env is not None:
            key = variable(engine.api_key_env, "engine.api_key_env")
            if key.lower().startswith("bearer "):
                raise ConfigError(
                    f"engine.api_key_env: the key in the environment variable {engine.api_key_env} begins with the "
                    "word Bearer, which llmload sends itself: remove it"
                )
        return Access(
            api_key=key,
            headers={name: value for name, value in engine.headers.items() if isinstance(value, str)},
            secret_headers=from_environment(engine.headers, "engine.headers"),
        )
