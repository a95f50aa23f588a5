"""Joins a locustfile to llmload."""

from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.event import Events
from locust.runners import MasterRunner, WorkerRunner
from locust.web import WebUI

from pathlib import Path
from typing import Any

from llmload.errors import ConfigError
from llmload.loadgen import options
from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.local import LocalNode
from llmload.loadgen.locust_compat import Runner, restore_report, use_three_digits
from llmload.loadgen.master import MasterNode
from llmload.loadgen.node import Node, exit_on_wrong_use, set_node
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.web import pages
from llmload.loadgen.worker import WorkerNode


def install(events: Events) -> None:
    """
    Give Locust llmload's options, its pages, and a node; a locustfile calls it at import with `locust.events`.

    Users and shapes find the node with `node_of`.
    """
    _Hooks(events)


class _Hooks:
    def __init__(self, events: Events) -> None:
        self._ahead: Preparation | None = None
        use_three_digits()
        events.init_command_line_parser.add_listener(self._on_command_line)
        events.init.add_listener(self._on_init)
        events.worker_report.add_listener(_restore)  # now, so that it comes before Locust's own listeners

    def _on_command_line(self, parser: LocustArgumentParser, **_: object) -> None:
        options.add_options(parser)
        options.bind_to_loopback(parser)
        file = options.scenario_on_command_line()
        if file is not None:
            with exit_on_wrong_use():
                options.set_defaults(parser, options.scenario_for_defaults(file))
                self._prepare_ahead(parser, file)

    def _prepare_ahead(self, parser: LocustArgumentParser, file: Path) -> None:
        """
        Read the prompts before Locust forks, so that they are read once, and before a worker meets its master.

        A worker that is reading answers nothing, and its master gives it up after four seconds.
        """
        parsed = None if self._ahead is not None else options.parsed_ahead(parser)
        if parsed is not None:
            self._ahead = Preparation(file)
            self._ahead.scenario(parsed)

    def _on_init(self, environment: Environment, runner: Runner, web_ui: WebUI | None = None, **_: object) -> None:
        with exit_on_wrong_use():
            file = options.scenario_on_command_line()
            if file is None:
                raise ConfigError("no scenario: give one with --config FILE, for example --config scenarios/demo.toml")
            node = _node_for(environment, runner, self._ahead or Preparation(file))
        set_node(environment, node)
        if web_ui is not None and isinstance(node, CoordinatingNode):
            pages.install(web_ui, node)
            node.metrics.add_page(web_ui)


def _node_for(environment: Environment, runner: Runner, preparation: Preparation) -> Node:
    if isinstance(runner, WorkerRunner):
        return WorkerNode(environment, runner, preparation)
    if isinstance(runner, MasterRunner):
        return MasterNode(environment, runner, preparation)
    return LocalNode(environment, runner, preparation)


def _restore(data: dict[str, Any], **_: object) -> None:
    restore_report(data)
