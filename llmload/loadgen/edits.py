"""
Edits of a running load: users, spawn rate or rate, in the web UI or by Locust's keys.

An edit that changes users or rate ends the current phase of the load and begins another, which is measured by itself
once its users run in every process and its warm-up is over. Locust's `start` is where every edit comes past.
"""

import argparse
import copy
import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import gevent
from gevent import Greenlet

from llmload.errors import ConfigError, LlmloadError
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.locust_compat import Runner, has_a_run
from llmload.loadgen.options import refuse_changes
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.preparation import Preparation
from llmload.metrics.totals import RunTotals
from llmload.runs.folder import LoadEdit
from llmload.scenario import Scenario
from llmload.scenario.load_protocol import Load, Ramp

MAX_EDITS: Final = 20
"""How many edits begin a phase: a summary, a report of a worker and a page have room for as many."""

logger = logging.getLogger(__name__)


class EditedNode(Protocol):
    """The node whose load is edited."""

    runner: Runner
    preparation: Preparation
    coordinator: RunCoordinator | None

    @property
    def options(self) -> argparse.Namespace:
        """Locust's options."""

    def totals(self) -> RunTotals:
        """Return the totals of the run."""

    def worker_states(self) -> list[str]:
        """Return Locust's state of each worker."""

    def expect_senders(self) -> None:
        """Wait from now on for the users of the edited load, not for those before it."""

    def await_senders(self) -> None:
        """Wait until the users of the current load run in every process."""

    def begin_measuring(self, coordinator: RunCoordinator) -> None:
        """Open the window of the run in every process."""

    def command_step(self, command: StepCommand) -> None:
        """Let every process begin a phase, or open its window."""

    def spawn(self, what: str, run: Callable[..., object], *arguments: object) -> "Greenlet[..., object]":
        """Run a function in a greenlet that ends with the run, and return it; `what` is what it does, in words."""


class LoadEdits:
    """The edits of a node's runs."""

    def __init__(self, node: EditedNode) -> None:
        self._node = node
        self._opening: Greenlet[..., object] | None = None

    def begin(self, coordinator: RunCoordinator) -> None:
        """Open the window of a run that starts now, once its users run in every process."""
        self._opening = self._node.spawn("the opening of the window", self._open, coordinator, 0)

    @property
    def running(self) -> RunCoordinator | None:
        """The run that an edit would be of; None where there is none, or its shape alone sets the load."""
        coordinator = self._node.coordinator
        if coordinator is None or coordinator.summary is not None or not has_a_run(self._node.runner):
            return None
        return coordinator if coordinator.scenario.load.shape is None else None

    def check(self, coordinator: RunCoordinator, asked: argparse.Namespace) -> Scenario:
        """Return the scenario with the options as they are to be; ConfigError where the run cannot be edited so."""
        if coordinator.ending:
            raise ConfigError("the run is ending: start another once it has ended")
        edited = self._node.preparation.scenario(asked, is_whole=False)
        before, load = coordinator.current.load, edited.load
        refuse_changes(coordinator.current, edited)
        load.check_workers(len(self._node.worker_states()))
        if load.target != before.target:
            phases = 0 if coordinator.timeline is None else coordinator.timeline.index
            if phases >= MAX_EDITS:
                raise ConfigError(f"the load was edited {MAX_EDITS} times in this run: stop it and start another")
            limit_s = asked.run_time if asked.run_time != self._node.options.run_time else None
            _refuse_unopened(coordinator, load, limit_s)
        return edited

    def take(self, users: int, spawn_rate: float) -> bool:
        """Edit the load, if this call of Locust's `start` does; False where it cannot be edited so."""
        coordinator = self.running
        if coordinator is None:
            return True
        asked = copy.copy(self._node.options)
        asked.num_users, asked.spawn_rate = users, spawn_rate
        try:
            edited = self.check(coordinator, asked)
        except LlmloadError as error:
            logger.error("the load was not edited: %s", error)  # noqa: TRY400 - the line says it all
            return False
        self._apply(coordinator, edited)
        return True

    def _apply(self, coordinator: RunCoordinator, edited: Scenario) -> None:
        before, load = coordinator.current.load, edited.load
        coordinator.note_edits(edited, _changes(before, load))
        target = load.target
        if target is None or target == before.target:
            return  # as many users, or the same rate: the load is what it was
        coordinator.divide(self._node.totals())
        index = (0 if coordinator.timeline is None else coordinator.timeline.index) + 1
        if self._opening is not None:
            self._opening.kill(block=False)
        self._node.expect_senders()
        self._node.command_step(StepCommand(index=index, load=target))
        self._opening = self._node.spawn("the opening of a phase", self._open, coordinator, index)

    def _open(self, coordinator: RunCoordinator, index: int) -> None:
        """Open the window of the run, or of a phase, once all its users run."""
        node, load = self._node, coordinator.current.load
        node.await_senders()
        if coordinator.ending:
            return
        if coordinator.span.window.start_ns is None or not index:
            node.begin_measuring(coordinator)
        if index:
            coordinator.conditions.reached_phases.add(index)
            gevent.sleep(load.warmup_s)
            node.command_step(StepCommand(index=index, load=load.target or 0.0, measured=True))

    def note_time(self, run_time_s: float) -> None:
        """Note that the run is to end that much later than now."""
        coordinator = self.running
        if coordinator is not None:
            limit_s = coordinator.ends_s or 0.0
            ends_s = limit_s - coordinator.span.left_s(limit_s) + run_time_s
            edit = LoadEdit(unix_s=time.time(), what="duration_s", before=coordinator.ends_s, after=ends_s)
            coordinator.ends_s = ends_s
            coordinator.note_edits(coordinator.current, [edit])


def _changes(before: Load, after: Load) -> Iterator[LoadEdit]:
    """Yield what an edit changes of the users, the rate and how fast users start."""
    named = {before.target_key or "": (before.target, after.target)}
    if before.target_key == "users":
        named["spawn_rate_per_s"] = before.locust_spawn_rate_per_s, after.locust_spawn_rate_per_s
    for what, (old, new) in named.items():
        if old != new:
            yield LoadEdit(unix_s=time.time(), what=what, before=old, after=new)


def _refuse_unopened(coordinator: RunCoordinator, load: Load, limit_s: float | None) -> None:
    """
    Raise ConfigError where the run is over before the users of the edited load run and have warmed up.

    `limit_s` is how long the run is to last from now on, None where that is not edited.
    """
    ends_s, now = coordinator.ends_s, coordinator.current.load
    if ends_s is None and limit_s is None:
        return
    left_s = coordinator.span.left_s(ends_s or 0.0) if limit_s is None else limit_s
    ramp = Ramp()
    if load.target_key == "users":
        more = abs(load.locust_users - now.locust_users)
        ramp = Ramp(users=more, spawn_rate_per_s=load.locust_spawn_rate_per_s)
    if ramp.length_s + load.warmup_s >= left_s:
        raise ConfigError(
            f"nothing would be measured: {ramp.length_s:.3g} s of ramp and {load.warmup_s:g} s of warm-up come first, "
            f"and the run ends in {left_s:.3g} s: start users faster, or start another run"
        )
