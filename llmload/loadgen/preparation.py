"""What is looked at before anything is sent: the scenario, its prompts, its key, and the engine itself."""

import argparse
import logging
from pathlib import Path
from typing import Final

from llmload.client.engine_info import EngineInfo, ask_engine
from llmload.errors import ConfigError, EngineError
from llmload.loadgen import options
from llmload.prompts.arrivals import read_trace
from llmload.prompts.workload import Workload
from llmload.prompts.workload import load as load_prompts
from llmload.runs.plausibility import memory_warning
from llmload.scenario import Scenario
from llmload.scenario.loads import Replay, Staged

CHARACTERS_A_TOKEN: Final = 3
"""Fewer than English has, so that the estimate of a prompt's tokens errs high."""
logger = logging.getLogger(__name__)


class Preparation:
    """A scenario file, and what it has been found to need; prompts are read once, not at every start."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.deployment: EngineInfo | None = None
        self._warned: set[str] = set()
        self._workloads: dict[tuple[object, ...], Workload] = {}

    def scenario(self, parsed: argparse.Namespace) -> Scenario:
        """Return the scenario as the command line or start form has it; ConfigError if it cannot be run."""
        scenario = options.effective_scenario(self.file, parsed)
        workload = self.workload(scenario, self.file.parent)
        load, available = scenario.load, workload.request_count
        asked = None if isinstance(load, Staged) else load.requests
        if isinstance(load, Replay):
            read_trace(load.trace, load.column, self.file.parent)  # what is wrong with it is said before the start
        if asked is not None and asked > available and not scenario.prompts.repeat:
            raise ConfigError(
                f"{self.file}: load.requests: {asked} requests, but prompts.source {scenario.prompts.source!r} "
                f"gives {available}; ask for fewer, or set prompts.repeat = true"
            )
        scenario.api_key()
        self._warn_of_memory(scenario, workload)
        return scenario

    def _warn_of_memory(self, scenario: Scenario, workload: Workload) -> None:
        """Say once where users x tokens may exceed the KV cache: the engine would then queue or preempt."""
        longest = max(
            (len(m["content"]) for c in workload.conversations for p in c.prompts for m in p.messages), default=0
        )
        tokens = longest // CHARACTERS_A_TOKEN + (scenario.request.max_tokens or 0)
        warning = memory_warning(scenario, tokens)
        if warning is not None and warning not in self._warned:
            self._warned.add(warning)
            logger.warning("%s", warning)

    def workload(self, scenario: Scenario, base_dir: Path) -> Workload:
        """Return the scenario's prompts; DataError if they cannot be had."""
        plan = scenario.prompt_plan()
        key = (plan, base_dir)
        if key not in self._workloads:
            self._workloads = {key: load_prompts(plan, base_dir)}
        return self._workloads[key]

    def meet_engine(self, scenario: Scenario) -> None:
        """Ask the engine about itself; EngineError if it does not answer or does not serve the model."""
        engine, wanted = scenario.engine, scenario.model.request_name
        for url in engine.base_url:
            self.deployment = ask_engine(
                url, api_key=scenario.api_key(), ca_file=engine.ca_file, verify_tls=engine.verify_tls
            )
            served = self.deployment.models
            if served and wanted not in served:
                raise EngineError(
                    f"the engine at {url} does not serve model {wanted!r} but {', '.join(served)}: "
                    "set model.served_as in the scenario, or give --model"
                )
