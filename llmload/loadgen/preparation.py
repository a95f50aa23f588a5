"""What comes before the first request: the scenario's checks, its prompts, its engine, and a process's session."""

import argparse
import gc
import logging
from pathlib import Path
from typing import Final

from llmload.access.address import Origin, origin_of
from llmload.client import make_client
from llmload.client.packet_ring import why_unavailable
from llmload.client.said import listed
from llmload.client.settings import ClientSettings, EngineInfo, Timeouts, ask_engine
from llmload.errors import ConfigError, EngineError, LlmloadError
from llmload.loadgen import options
from llmload.loadgen.calibration import asks_lengths, learn
from llmload.loadgen.session import Session, WorkerShard
from llmload.prompts.conversation import Prompt
from llmload.prompts.salts import Salts
from llmload.prompts.workload import Calibration, Workload
from llmload.prompts.workload import load as load_prompts
from llmload.runs.build_summary import gpu_warning, memory_warning
from llmload.runs.folder import RunFolder
from llmload.runs.requests import RequestLog
from llmload.scenario import Scenario
from llmload.scenario.model import SERVED_MODEL
from llmload.scenario.reading import scenario_without_a_file

CHARACTERS_A_TOKEN: Final = 3
"""Fewer than English has, so that the estimate of a prompt's tokens errs high."""
logger = logging.getLogger(__name__)


class Preparation:
    """A scenario file, checked and with its prompts, which are read once, not at every start; None: the default one."""

    def __init__(self, file: Path | None) -> None:
        self.file = file or scenario_without_a_file()
        self.is_default = file is None
        self.deployment: EngineInfo | None = None
        self.calibration: Calibration | None = None
        """How the engine counts tokens; None before it was asked, or where the scenario asks for no lengths."""
        self._calibrated_for: tuple[object, ...] | None = None
        self._served: dict[str, str] = {}
        """The model that each engine says it serves, by its address."""
        self._warned: set[str] = set()
        self._workloads: dict[tuple[object, ...], Workload] = {}
        self._named: frozenset[Origin] | None = None
        """Origins of the engines that the scenario file and the command line name; None before the first scenario."""

    def scenario(self, parsed: argparse.Namespace, *, is_whole: bool = True) -> Scenario:
        """
        Return the scenario with the options of the command line or start form; ConfigError if it cannot be run.

        Without `is_whole` it is one that runs already, with its load edited. The first call's are the command line's:
        the engines that the scenario has then, or as it is written, are the only ones that its key is sent to.
        """
        scenario = options.effective_scenario(self.file, parsed, is_whole=is_whole)
        self._check_key(scenario, parsed)
        scenario = self._with_served_model(scenario, parsed)
        workload = self.workload(scenario, self.file.parent)
        load, available = scenario.load, workload.request_count
        try:
            load.check_files(self.file.parent)
        except ValueError as error:
            raise ConfigError(f"{self.file}: load: {error}") from None
        requests = load.ends_after_requests
        if requests is not None and requests > available and not scenario.prompts.repeat:
            raise ConfigError(
                f"{self.file}: load.requests: {requests} requests, but prompts.source {scenario.prompts.source!r} "
                f"gives {available}; ask for fewer, or set prompts.repeat = true"
            )
        try:
            scenario.access()
        except ConfigError as error:
            raise ConfigError(f"{self.file}: {error}") from None
        self._check_stamps(scenario, parsed)
        self._warn_of_memory(scenario, workload)
        return scenario

    @property
    def named(self) -> frozenset[Origin]:
        """Origins of the engines that the scenario file and the command line name; none before the first scenario."""
        return self._named or frozenset()

    def _check_key(self, scenario: Scenario, parsed: argparse.Namespace) -> None:
        """Raise ConfigError for an engine that is to be sent the key and has only been named in the start form."""
        if self._named is None:
            written = options.scenario_as_set(self.file, parsed).engine.base_url
            self._named = frozenset(map(origin_of, [*written, *scenario.engine.base_url]))
        names = " and ".join(scenario.engine.secret_names)
        for url in scenario.engine.base_url:
            if names and origin_of(url) not in self._named:
                raise ConfigError(
                    f"host: {url} would be sent the key in {names}, and neither the scenario nor "
                    f"the command line names it: restart Locust with --host {url}"
                )

    def _check_stamps(self, scenario: Scenario, parsed: argparse.Namespace) -> None:
        """Raise ConfigError where this process is to send with the packet ring's stamps and cannot have them."""
        sends = not getattr(parsed, "master", False) or getattr(parsed, "processes", None)
        if scenario.client.stamps == "packet" and sends and (why_not := why_unavailable()):
            raise ConfigError(f"{self.file}: client.stamps = 'packet': {why_not}; or set client.stamps = 'auto'")

    def _warn_of_memory(self, scenario: Scenario, workload: Workload) -> None:
        """Warn once where users x tokens may exceed the KV cache, and where the GPU's name tells no card."""
        prompts = (prompt for conversation in workload.conversations for prompt in conversation.prompts)
        tokens = max((_tokens_of(prompt, scenario.request.max_tokens or 0) for prompt in prompts), default=0)
        for warning in (gpu_warning(scenario), memory_warning(scenario, tokens)):
            if warning is not None:
                self._warn(warning)

    def _warn(self, warning: str) -> None:
        if warning not in self._warned:
            self._warned.add(warning)
            logger.warning("%s", warning)

    def workload(self, scenario: Scenario, base_dir: Path) -> Workload:
        """Return the scenario's prompts; DataError if they cannot be read."""
        plan = scenario.prompt_plan()
        key = (plan, base_dir, self.calibration)
        if key not in self._workloads:
            self._workloads = {key: load_prompts(plan, base_dir, self.calibration)}
            for note in self._workloads[key].prompt_set.notes():
                self._warn(note)
        return self._workloads[key]

    def _with_served_model(self, scenario: Scenario, parsed: argparse.Namespace) -> Scenario:
        """
        Return the scenario with the model that its engine serves, where it asks for that one.

        EngineError where that is not known, but not with the web UI: the engine may be started later, and `meet_engine`
        says so. A worker does not ask: its master does.
        """
        url = scenario.engine.base_url[0]
        if scenario.model.name != SERVED_MODEL or getattr(parsed, "worker", False):
            return scenario
        if url not in self._served:
            try:
                self._served[url] = served_model(_ask(url, scenario))
            except LlmloadError:
                if parsed.headless:
                    raise
                return scenario
        model = scenario.model.model_copy(update={"name": self._served[url], "served_as": None})
        return scenario.model_copy(update={"model": model})

    def meet_engine(self, scenario: Scenario) -> None:
        """Ask the engine about itself; EngineError if it does not answer or does not serve the model."""
        wanted = scenario.model.request_name
        for url in scenario.engine.base_url:
            self.deployment = _ask(url, scenario)
            served = self.deployment.models
            if wanted == SERVED_MODEL:
                wanted = served_model(self.deployment)
            if served and wanted not in served:
                self._served.clear()  # it was started again, with another model
                raise EngineError(
                    f"the engine at {url} does not serve model {wanted!r} but {listed(served, self.deployment.hide)}: "
                    "set model.served_as in the scenario, or give --model"
                )

    def calibrate(self, scenario: Scenario) -> None:
        """
        Learn how the engine counts tokens, where the scenario asks for lengths; once for an engine and its model.

        EngineError where it does not say, or where a prompt and its answer are longer than it takes.
        """
        plan = scenario.prompt_plan()
        if not asks_lengths(plan):
            self.calibration = self._calibrated_for = None
            return
        wanted = (plan, scenario.engine.model_dump_json(), scenario.model, str(scenario.prompts.exact_output))
        if wanted != self._calibrated_for:
            settings = client_settings(scenario)
            self.calibration = learn(scenario, settings, self.deployment, self.file.parent)
            self._calibrated_for = wanted


def _tokens_of(prompt: Prompt, max_tokens: int) -> int:
    """Return about how many tokens a request takes: those that it is to have, else by its longest message."""
    longest = max((len(message["content"]) for message in prompt.messages), default=0)
    sent = prompt.asked.input_tokens or longest // CHARACTERS_A_TOKEN
    answered: int = prompt.fields.get("max_tokens") or max_tokens
    return sent + answered


def _ask(url: str, scenario: Scenario) -> EngineInfo:
    engine = scenario.engine
    return ask_engine(url, access=scenario.access(), ca_file=engine.ca_file, verify_tls=engine.verify_tls)


def served_model(engine: EngineInfo) -> str:
    """Return the model that an engine serves, without adapters of it; EngineError if it names none, or several."""
    names = engine.base_models
    if len(names) == 1:
        return names[0]
    if not names:
        raise EngineError(f"the engine at {engine.base_url} does not say which model it serves: give --model NAME")
    raise EngineError(
        f"the engine at {engine.base_url} serves {len(names):,} models ({listed(names, engine.hide)}): "
        "give one of them with --model NAME"
    )


_RARE_COLLECTIONS: Final = (50_000, 20, 20)
"""A round of reads makes hundreds of short-lived objects without reference cycles: there is little to collect."""


def client_settings(scenario: Scenario) -> ClientSettings:
    """Return the client's settings by the scenario, with keys from the environment."""
    access = scenario.access()
    return ClientSettings(
        base_urls=tuple(scenario.engine.base_url),
        model=scenario.model.request_name,
        api=scenario.engine.api,
        stream=scenario.request.stream,
        body=scenario.request.body(),
        include_usage=scenario.request.include_usage,
        api_key=access.api_key,
        headers=access.headers,
        secret_headers=access.secret_headers,
        request_id_header=scenario.client.request_id_header or None,
        timeouts=Timeouts(**scenario.client.timeouts.model_dump()),
        retries=scenario.client.retries,
        ca_file=scenario.engine.ca_file,
        verify_tls=scenario.engine.verify_tls,
        stamps=scenario.client.stamps,
        reasoning_in_tags=scenario.request.reasoning == "tags",
    )


def open_session(
    scenario: Scenario,
    workload: Workload,
    shard: WorkerShard,
    run_id: str,
    start_ns: int | None = None,
    *,
    name: str | None = None,
) -> Session:
    """
    Return the session of a process that is about to send: files and client open, every request encoded.

    `name` is that of the workload's requests where others have names, and the scenario has no mix.
    """
    if name is not None and not scenario.mix:
        workload = workload.named(name)
    folder = RunFolder(Path(scenario.run.folder) / run_id)
    folder.create()
    client = make_client(client_settings(scenario), scenario.client.kind)
    prompts = scenario.prompts
    forms = {prompts.salt is not None, prompts.salting is not None}  # where only repeats are salted, both
    for conversation in workload.conversations:
        for prompt in conversation.prompts:
            for salted in forms:
                client.prepare(prompt, salted=salted)
    client.open()
    session = Session(
        scenario=scenario,
        shard=shard,
        client=client,
        queue=workload.queue(shard.index, shard.count),
        shape_queues=[workload.of_shape(each).queue(shard.index, shard.count) for each in scenario.swept_shapes],
        log=RequestLog(folder.path / shard.log_name, with_chunks=scenario.run.record_chunks),
        run_id=run_id,
        start_ns=start_ns,
        salts=_salts(scenario, workload, shard, run_id),
    )
    if gc.get_freeze_count():  # what the run before left behind is garbage now
        gc.unfreeze()
        gc.collect()
    gc.freeze()  # objects that live through the whole run are not traversed again
    gc.set_threshold(*_RARE_COLLECTIONS)
    return session


def _salts(scenario: Scenario, workload: Workload, shard: WorkerShard, run_id: str) -> Salts | None:
    prompts, text = scenario.prompts, workload.calibration.text
    if prompts.salting is None:
        return None
    return Salts(
        prompts.salt,
        repeats=prompts.repeat == "salted",
        seed=scenario.scenario.seed,
        key=prompts.salt_key or run_id,
        worker_index=shard.index,
        worker_count=shard.count,
        text=None if text is None else text.salt,
    )
