"""A scenario as types: each table of the file is a model, and settings that contradict each other are errors."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from llmload.access.address import checked_base_url
from llmload.access.secrecy import Access, masked_command
from llmload.errors import ConfigError
from llmload.metrics.by_name import MAX_NAMES
from llmload.prompts.lengths import Shape
from llmload.prompts.synthetic import SYNTHETIC
from llmload.prompts.workload import PromptPlan
from llmload.record import Slo
from llmload.scenario.headers import FromEnvironment, Headers, VariableName, from_environment, mistake_in_name, variable
from llmload.scenario.loads import AnyLoad
from llmload.scenario.prompts import Prompts, asks_inputs
from llmload.scenario.requests import MixEntry, Request, check_lengths
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

    @model_validator(mode="before")
    @classmethod
    def _synthetic_by_a_mix(cls, tables: Any) -> Any:
        """Make prompts synthetic where an entry of the mix has a length for them."""
        if not isinstance(tables, dict):
            return tables
        mix, prompts = tables.get("mix"), tables.get("prompts", {})
        entries = [entry for entry in mix if isinstance(entry, dict)] if isinstance(mix, list) else []
        sized = any(asks_inputs(entry.get("prompts")) for entry in entries)
        if not sized or not isinstance(prompts, dict) or prompts.get("source", "builtin") != "builtin":
            return tables
        return {**tables, "prompts": {**prompts, "source": SYNTHETIC}}

    @model_validator(mode="after")
    def _mix_has_names(self) -> Self:
        names = [entry.name for entry in self.mix]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"mix has two entries named {twice[0]!r}: give each its own name")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        check_lengths(self.prompts, self.mix, swept=bool(self.swept_shapes))
        plan = self.prompt_plan()
        if plan.asks_outputs and "max_completion_tokens" in self.request.extra_body:
            raise ValueError(
                "request.extra_body has max_completion_tokens, and the length of answers in prompts is sent as "
                "max_tokens: remove one of them"
            )
        counted = plan.is_synthetic or (plan.asks_outputs and plan.holds_outputs)
        if counted and self.request.include_usage is False:
            raise ValueError(
                "request.include_usage = false leaves out the engine's token counts, which lengths in prompts are held "
                "against: remove it"
            )
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
            lengths=prompts.lengths,
            mix=tuple(entry.mixed_in(prompts.lengths) for entry in self.mix),
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
