"""What a scenario says, as types: what cannot go together cannot be written."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from llmload.errors import ConfigError
from llmload.prompts.queue import SaltMode
from llmload.prompts.workload import PromptPlan
from llmload.record import Slo
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
    if isinstance(urls, list):
        for url in urls:
            parts = urlsplit(url) if isinstance(url, str) else None
            if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("a base URL looks like http://127.0.0.1:8000 or https://host/v1")
            if parts.username or parts.password:
                raise ValueError("a base URL carries no password: name an environment variable in engine.api_key_env")
    return urls


def _as_salt_mode(value: object) -> object:
    return ("request" if value else None) if isinstance(value, bool) else value


class Engine(Table):
    """The deployment's address and dialect."""

    name: EngineName
    base_url: Annotated[list[str], BeforeValidator(_as_urls), Field(min_length=1)]
    """One URL, or a list that takes turns."""
    label: str | None = None
    """What tables call the engine, its usual name where this is absent."""
    api: Literal["openai-chat", "tgi-generate"] = "openai-chat"
    api_key_env: str | None = None
    """The environment variable that holds the key; keys never stand in a file."""
    ca_file: str | None = None
    verify_tls: bool = True

    @property
    def display_name(self) -> str:
        """What tables call the engine."""
        return self.label or ENGINE_LABELS[self.name]


class Model(Table):
    """The model under test."""

    name: str = Field(min_length=1)
    """What tables call it."""
    served_as: str | None = Field(default=None, min_length=1)
    """What a request calls it, where the engine wants another name (a path, a hub id)."""
    catalogue: str | None = Field(default=None, min_length=1)
    """What `llmload vram` knows it as, a name or the path of its config, where that is another name."""

    @property
    def request_name(self) -> str:
        """What a request calls the model."""
        return self.served_as or self.name


class Deployment(Table):
    """What is known of the machine under test: for the report and the sizing, never sent."""

    gpu: str | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    tensor_parallel: Count | None = None
    precision: Precision | None = None
    engine_version: str | None = None
    command: str | None = None
    """How the engine is started, for whoever repeats the run."""

    @model_validator(mode="after")
    def _ranks_have_gpus(self) -> Self:
        if self.tensor_parallel and self.gpus is not None and self.tensor_parallel > max(1, self.gpus):
            raise ValueError(f"tensor_parallel = {self.tensor_parallel} needs as many GPUs, but gpus = {self.gpus}")
        return self


class Prompts(Table):
    """Which prompts are sent."""

    source: str = Field(default="builtin", min_length=1)
    """`builtin`, `lima` (GAIR/lima from the Hugging Face hub), or the path of a file or directory."""
    split: str | None = None
    count: Count | None = None
    """How many are drawn at random, without replacement; all where absent."""
    turns: Literal["first", "all"] = "first"
    repeat: bool = False
    """Whether the draw starts over, shuffled anew, when every prompt was sent."""
    n_shot: Annotated[int, Field(ge=0)] = 0
    chain_of_thought: bool | str = False
    salt: Annotated[SaltMode | None, BeforeValidator(_as_salt_mode)] = None
    """A short prefix before the first message that no other request (true: the same) or no other run has, so that no
    prefix cache of the engine can answer it."""
    salt_key: str | None = Field(default=None, min_length=1)
    """What tells this run's salts from another run's of the same seed; the run's id where absent."""

    @model_validator(mode="after")
    def _key_has_salt(self) -> Self:
        if self.salt_key is not None and self.salt is None:
            raise ValueError(f"salt_key = {self.salt_key!r} means nothing without salt = 'request' or 'run'")
        return self


class Request(Table):
    """What a request carries besides its messages: only keys that are set are sent."""

    stream: bool = True
    include_usage: bool | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    temperature: NotNegative | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: int | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: Positive | None = None
    seed: int | None = None
    stop: list[str] | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        sent = {"model", "messages", "stream", "stream_options", *self.sampling()}
        if twice := sorted(sent & self.extra_body.keys()):
            raise ValueError(f"extra_body repeats {twice[0]}, which llmload sends already")
        if self.ignore_eos and self.max_tokens is None:
            raise ValueError("ignore_eos = true never ends without max_tokens")
        if self.include_usage and not self.stream:
            raise ValueError("include_usage belongs to a stream, but stream = false")
        return self

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters that are set."""
        own = {"stream", "include_usage", "extra_body"}
        return self.model_dump(exclude=own, exclude_none=True)

    def body(self) -> dict[str, Any]:
        """Return every field of the request that the scenario sets, without model, messages and stream."""
        return {**self.sampling(), **self.extra_body}


class TimeoutLimits(Table):
    """How long each part of a request may take, in seconds."""

    connect_s: Positive = 10.0
    first_token_s: Positive = 120.0
    between_tokens_s: Positive = 60.0
    total_s: Positive = 600.0


class Client(Table):
    """Which client sends, and how patiently."""

    kind: Literal["wire", "openai"] = "wire"
    retries: Annotated[int, Field(ge=0)] = 0
    timeouts: TimeoutLimits = TimeoutLimits()


class SloLimits(Table):
    """Limits of a good request, in seconds."""

    ttft_s: Positive | None = None
    tpot_s: Positive | None = None
    e2e_s: Positive | None = None


class Run(Table):
    """How the run ends and what it leaves behind."""

    folder: str = "runs"
    """Where run folders are made; relative to the working directory."""
    drain_timeout_s: NotNegative = 60.0
    """How long requests in flight may take to finish at the end; what is cut is counted as censored."""
    record_chunks: bool = True
    """Whether `requests.jsonl` keeps the gaps between chunks."""


class Identity(Table):
    """What the scenario is called, and the seed that everything random is drawn from."""

    name: str = Field(min_length=1)
    description: str | None = None
    seed: int = 0
    protocol: Literal["speed", "throughput"] | None = None
    """Which of the reference document's tables a run belongs in."""


class Scenario(Table):
    """Everything that makes a run repeatable."""

    scenario: Identity
    engine: Engine
    model: Model
    deployment: Deployment = Deployment()
    prompts: Prompts = Prompts()
    request: Request = Request()
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
            raise ValueError(f"client.kind = 'openai' cannot speak engine.api = {self.engine.api!r}")
        if not self.request.stream and (self.slo.ttft_s is not None or self.slo.tpot_s is not None):
            raise ValueError("slo.ttft_s and slo.tpot_s are not measurable with request.stream = false")
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
    def _load_fits(self) -> Self:
        slo = bool(self.slo_limits().limits)
        self.load.check_scenario(slo=slo, stream=self.request.stream, repeat=self.prompts.repeat)
        return self

    def slo_limits(self) -> Slo:
        """Return the limits of a good request."""
        return Slo(**self.slo.model_dump())

    def prompt_plan(self) -> PromptPlan:
        """Return which prompts are drawn, and how."""
        return PromptPlan(**self.prompts.model_dump(exclude={"salt", "salt_key"}), seed=self.scenario.seed)

    def api_key(self) -> str | None:
        """Return the key from the environment, None where the scenario names none; ConfigError if it is not set."""
        name = self.engine.api_key_env
        if name is None:
            return None
        if not os.environ.get(name):
            raise ConfigError(
                f"engine.api_key_env: the environment variable {name} is not set; export it and try again"
            )
        return os.environ[name]
