"""llmload's options on Locust's command line, and Locust's defaults as the scenario sets them."""

from locust.argument_parser import LocustArgumentParser
from locust.util.timespan import parse_timespan

import argparse
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmload.errors import ConfigError
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.loads import AnyLoad, Capacity, ClosedLoop, Staged
from llmload.scenario.reading import read_setting, read_value

# Which keys of a scenario have an option and a field in the start form of their own, and what stands in it.


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionOverride:
    """An option whose default is the scenario's value, so that only a changed one is laid over the scenario."""

    option: str
    keys: tuple[str, ...]
    """Where it stands in the scenario; the first one that the scenario has is shown."""
    help: str
    metavar: str = "N"
    is_text: bool = False
    choices: tuple[str, ...] = ()

    @property
    def dest(self) -> str:
        """What the option is called among the parsed ones, and its field in the form."""
        return self.option.removeprefix("--").replace("-", "_")

    def fits(self, scenario: Scenario) -> bool:
        """Return whether the scenario has such a key, set or not: a closed loop has no rate."""
        table, _, key = self.keys[0].partition(".")
        return key in type(getattr(scenario, table)).model_fields

    def default(self, scenario: Scenario) -> str:
        """Return the scenario's value as the form shows it; empty where it has none."""
        table, _, key = self.keys[0].partition(".")
        value = getattr(getattr(scenario, table), key, None)
        return "" if value is None else str(value).removesuffix(".0")

    def changes(self, text: str, as_written: Scenario) -> dict[str, Any]:
        """Return what the option's text says otherwise than the scenario; an empty one says nothing."""
        text = text.strip()
        if not text or text == self.default(as_written):
            return {}
        return dict.fromkeys(self.keys, text if self.is_text else read_value(text))


OVERRIDES: Final = (
    OptionOverride(
        option="--model", keys=("model.name", "model.served_as"), help="Model to ask for", metavar="NAME", is_text=True
    ),
    OptionOverride(
        option="--engine",
        keys=("engine.name",),
        help="Engine's name for the tables: vllm, tgi, transformers, ...",
        metavar="NAME",
        is_text=True,
    ),
    OptionOverride(
        option="--prompts",
        keys=("prompts.source",),
        help="Prompts: builtin, lima or a path",
        metavar="SOURCE",
        is_text=True,
    ),
    OptionOverride(option="--prompt-count", keys=("prompts.count",), help="Prompts drawn at random; all where empty"),
    OptionOverride(option="--max-tokens", keys=("request.max_tokens",), help="Most output tokens of a request"),
    OptionOverride(
        option="--temperature", keys=("request.temperature",), help="Sampling temperature; the engine's where empty"
    ),
    OptionOverride(option="--requests", keys=("load.requests",), help="Requests to send; no such end where empty"),
    OptionOverride(
        option="--rate",
        keys=("load.rate_per_s",),
        help="Requests a second in an open loop; may be changed while running",
    ),
    OptionOverride(
        option="--arrivals",
        keys=("load.arrivals",),
        help="How requests of an open loop arrive",
        is_text=True,
        choices=("constant", "poisson", "gamma"),
    ),
    OptionOverride(
        option="--cv", keys=("load.cv",), help="Coefficient of variation of gamma arrivals: above 1 in bursts"
    ),
    OptionOverride(option="--speed", keys=("load.speed",), help="Speed of a replayed trace: 2 in half the time"),
    OptionOverride(
        option="--max-in-flight", keys=("load.max_in_flight",), help="What is due beyond it is dropped and counted"
    ),
    OptionOverride(
        option="--think-time", keys=("load.think_time_s",), help="Rest of a user between conversations", metavar="S"
    ),
    OptionOverride(option="--warmup", keys=("load.warmup_s",), help="Left out of the judged window", metavar="S"),
    OptionOverride(option="--seed", keys=("scenario.seed",), help="What everything random is drawn from"),
    OptionOverride(
        option="--drain-timeout",
        keys=("run.drain_timeout_s",),
        help="How long requests in flight may take to finish at the end",
        metavar="S",
    ),
)


EDITABLE: Final = frozenset({"load.users", "load.spawn_rate_per_s", "load.rate_per_s", "load.duration_s"})
"""What may change while a run goes on."""


def refuse_changes(running: Scenario, edited: Scenario) -> None:
    """Raise ConfigError where an edit changes more of a run that goes on than its users, rate and time."""
    now, then = edited.model_dump(), running.model_dump()
    for table in now:
        keys, before = now[table] or {}, then[table] or {}  # a table may be left out
        for key, value in keys.items():
            name = f"{table}.{key}"
            if name not in EDITABLE and value != before.get(key):
                raise ConfigError(
                    f"{name}: cannot become {value!r} while the run goes on (it is {before.get(key)!r}): "
                    "stop it first, then start anew"
                )


SHAPED: Final = {"staged": "chat_staged.py", "capacity": "chat_capacity.py"}
"""Loads that a shape drives, and the locustfile that has it: Locust takes the first shape that it finds."""


def refuse_other_shape(scenario: Scenario, kind: str | None) -> None:
    """Raise ConfigError where the locustfile's shape drives another kind of load than the scenario asks for."""
    asked = scenario.load.kind
    if kind != (asked if asked in SHAPED else None):
        file = f"locustfiles/{SHAPED.get(asked, 'chat.py')}"
        raise ConfigError(
            f"load.kind = {asked!r} needs another locustfile, as {file} is (-f or tool.locust.locustfile)"
        )


LOOPBACK = "127.0.0.1"


def named_scenario(arguments: list[str]) -> Path | None:
    """Return the file that `--scenario` or else `--config` names among the arguments; None if neither stands there."""
    found = _found_early(arguments)
    name = found.scenario or found.config
    return Path(name) if name else None


def _found_early(arguments: list[str]) -> argparse.Namespace:
    """Return what has to be known before Locust's parser, whose defaults follow from it, has parsed anything."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--scenario", default="")
    finder.add_argument("--config", default="")
    finder.add_argument("--set", dest="settings", action="append", default=[])
    return finder.parse_known_args(arguments)[0]


def add_options(parser: LocustArgumentParser) -> None:
    """Add llmload's options, each with a default that says "as the scenario has it"."""
    add: Any = parser.add_argument  # Locust's parser takes `include_in_web_ui`, its groups do not
    hidden: dict[str, Any] = {"include_in_web_ui": False}
    add("--scenario", default="", metavar="FILE", help="Scenario file, if not --config's", **hidden)
    for override in OVERRIDES:
        named: dict[str, Any] = {"choices": override.choices} if override.choices else {"metavar": override.metavar}
        add(override.option, default="", help=f"{override.help} [{override.keys[0]}]", **named)
    add("--out", default="", metavar="DIR", help="Where run folders are made instead of the scenario's place", **hidden)
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="Any key of the scenario, its value as TOML has it: load.warmup_s=5; may be given several times",
        **hidden,
    )
    add(
        "--summary",
        choices=("table", "json", "none"),
        default="table",
        help="What is printed at the end: tables, summary.json, or nothing",
        **hidden,
    )
    for option, what in (("--junit", "JUnit XML of verdict and gates"), ("--markdown", "Summary in Markdown")):
        text = f"{what}, for a CI system, written at the end of a headless run"
        add(option, type=_new_file, default=None, metavar="FILE", help=text, **hidden)
    add(
        "--progress",
        default="auto",
        metavar="HOW",
        help="How a headless run shows its progress on standard error: auto (redrawn on a terminal, else quiet), off, "
        "or a number of seconds between lines",
        **hidden,
    )
    add("--metrics-port", default="9646", metavar="PORT", help="Port of /metrics for Prometheus, or off", **hidden)
    add("--metrics-host", default=LOOPBACK, metavar="HOST", help="Address that /metrics listens on", **hidden)
    add(
        "--llmload-linger",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="After a headless run, serve /metrics until scraped once more, but no longer than this",
        **hidden,
    )


def _new_file(text: str) -> str:
    """A file's name, as text, since Locust sends options to its workers."""
    index = Path(text).parent
    if not index.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: there is no folder {index}")
    return text


def set_defaults(parser: LocustArgumentParser, scenario: Scenario) -> None:
    """Make the scenario's load Locust's defaults, so that the start form and a headless run begin with it."""
    load = scenario.load
    parser.set_defaults(host=scenario.engine.base_url[0], only_summary=True)
    if isinstance(load, ClosedLoop):
        spawn_rate = load.spawn_rate_per_s or float(load.users)
        parser.set_defaults(num_users=load.users, spawn_rate=spawn_rate, run_time=load.duration_s)
    elif not isinstance(load, Staged | Capacity):
        parser.set_defaults(num_users=1, spawn_rate=1.0, run_time=load.duration_s)
    for action in parser._actions:  # Locust's parser keeps there what its start form shows
        override = next((each for each in OVERRIDES if each.dest == action.dest), None)
        if override is not None:
            action.default = override.default(scenario)
            action.include_in_web_ui = override.fits(scenario)


def bind_to_loopback(parser: LocustArgumentParser) -> None:
    """Serve this machine alone unless told otherwise; Locust's own default is every interface."""
    parser.set_defaults(web_host=LOOPBACK, master_bind_host=LOOPBACK)


def effective_scenario(path: Path, options: argparse.Namespace) -> Scenario:
    """Return the scenario with what the command line or the start form changed; ConfigError if they do not fit."""
    settings = dict(map(read_setting, options.settings))
    as_set = _load_as_far_as_it_fits(path, settings)
    overrides: dict[str, Any] = {}
    if options.host and options.host != as_set.engine.base_url[0]:
        overrides["engine.base_url"] = options.host
    for override in OVERRIDES:
        overrides |= override.changes(str(getattr(options, override.dest)), as_set)
    if options.out:
        overrides["run.folder"] = options.out
    return load_scenario(path, settings | overrides | _load_overrides(as_set.load, options))


def scenario_for_defaults(path: Path) -> Scenario:
    """Return the scenario with the command line's `--set`, so that Locust does by default what it says."""
    settings = _found_early(sys.argv[1:]).settings
    return _load_as_far_as_it_fits(path, dict(map(read_setting, settings)))


def _load_as_far_as_it_fits(path: Path, settings: dict[str, Any]) -> Scenario:
    """The scenario with its settings, or as it is written where those fit only together with further options."""
    try:
        return load_scenario(path, settings)
    except ConfigError:
        return load_scenario(path)


def _load_overrides(load: AnyLoad, options: argparse.Namespace) -> dict[str, Any]:
    """What the command line or the start form says otherwise about users and time: what Locust then does."""
    asked: dict[str, Any] = {}
    if isinstance(load, ClosedLoop):
        asked["users"] = options.num_users
    if not isinstance(load, Staged):
        asked["duration_s"] = options.run_time
    return {f"load.{key}": value for key, value in asked.items() if value and value != getattr(load, key)}


def parsed_ahead(parser: LocustArgumentParser) -> argparse.Namespace | None:
    """Return this process's options as Locust will have them after its start; None where only help is asked for."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        return None
    parsed: argparse.Namespace = parser.parse_known_args(sys.argv[1:])[0]
    if isinstance(parsed.run_time, str):
        with suppress(ValueError):  # Locust's to complain of
            parsed.run_time = parse_timespan(parsed.run_time)
    return parsed


def scenario_on_command_line() -> Path | None:
    """Return the scenario file that this process was started with."""
    return named_scenario(sys.argv[1:])
