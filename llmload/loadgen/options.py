"""llmload's options on Locust's command line and in its start form, and Locust's defaults by the scenario."""

from locust.argument_parser import LocustArgumentParser
from locust.util.timespan import parse_timespan

import argparse
import math
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmload.errors import ConfigError
from llmload.loadgen.locust_compat import show_option
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.load_protocol import Load
from llmload.scenario.reading import read_setting, read_value

LOOPBACK: Final = "127.0.0.1"
SHIPPED: Final = ("builtin", "lima")
"""Prompts that are known by a name; others are files, or data sets of a hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionOverride:
    """An option, and a field of the start form, for a key of the scenario; its default is the scenario's value."""

    option: str
    keys: tuple[str, ...]
    """The keys of the scenario that it sets; the first one is shown."""
    help: str
    metavar: str = "N"
    is_text: bool = False
    choices: tuple[str, ...] = ()

    @property
    def dest(self) -> str:
        """Its name among the parsed options, and in the form."""
        return self.option.removeprefix("--").replace("-", "_")

    def fits(self, scenario: Scenario) -> bool:
        """Return whether the scenario has the key, set or not: a closed loop has no rate."""
        table, _, key = self.keys[0].partition(".")
        return key in type(getattr(scenario, table)).model_fields

    def default(self, scenario: Scenario) -> str:
        """Return the scenario's value as the form shows it; empty for None."""
        table, _, key = self.keys[0].partition(".")
        value = getattr(getattr(scenario, table), key, None)
        return "" if value is None else str(value).removesuffix(".0")

    def changes(self, text: str, as_written: Scenario) -> dict[str, Any]:
        """Return the keys that the option's text changes, with their values; an empty text changes nothing."""
        text = text.strip()
        if not text or text == self.default(as_written):
            return {}
        return dict.fromkeys(self.keys, text if self.is_text else read_value(text))


OVERRIDES: Final = (
    OptionOverride(
        option="--model",
        keys=("model.name", "model.served_as"),
        help="Model name in requests and tables",
        metavar="NAME",
        is_text=True,
    ),
    OptionOverride(
        option="--engine",
        keys=("engine.name",),
        help="Engine's name in the tables: vllm, tgi, transformers, ...",
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
    OptionOverride(option="--prompt-count", keys=("prompts.count",), help="Prompts drawn at random (empty: all)"),
    OptionOverride(option="--max-tokens", keys=("request.max_tokens",), help="Maximum output tokens per request"),
    OptionOverride(
        option="--temperature", keys=("request.temperature",), help="Sampling temperature (empty: the engine's default)"
    ),
    OptionOverride(
        option="--rate",
        keys=("load.rate_per_s",),
        help="Requests per second in an open loop; may be changed during the run",
    ),
    OptionOverride(
        option="--base-rate", keys=("load.base_rate_per_s",), help="Requests per second of a spike, between its bursts"
    ),
    OptionOverride(
        option="--burst-rate", keys=("load.burst_rate_per_s",), help="Requests per second of a spike, in its bursts"
    ),
    OptionOverride(
        option="--burst", keys=("load.burst_s",), help="Seconds that a burst lasts, at the end of a period", metavar="S"
    ),
    OptionOverride(
        option="--period",
        keys=("load.period_s",),
        help="Seconds that base and burst of a spike take together",
        metavar="S",
    ),
    OptionOverride(
        option="--arrivals",
        keys=("load.arrivals",),
        help="Arrival process of an open loop",
        is_text=True,
        choices=("constant", "poisson", "gamma"),
    ),
    OptionOverride(
        option="--cv",
        keys=("load.cv",),
        help="Coefficient of variation of gamma arrivals: above 1 burstier than Poisson",
    ),
    OptionOverride(
        option="--speed", keys=("load.speed",), help="Speed of a replayed trace: 2 replays it in half the time"
    ),
    OptionOverride(
        option="--max-in-flight",
        keys=("load.max_in_flight",),
        help="Maximum requests in flight; arrivals beyond it are dropped and counted",
    ),
    OptionOverride(
        option="--think-time",
        keys=("load.think_time_s",),
        help="Seconds that a user rests between conversations",
        metavar="S",
    ),
    OptionOverride(
        option="--requests", keys=("load.requests",), help="Stop after this many requests (empty: no limit)"
    ),
    OptionOverride(
        option="--warmup", keys=("load.warmup_s",), help="Seconds of warm-up, before the window opens", metavar="S"
    ),
    OptionOverride(
        option="--drain-timeout",
        keys=("run.drain_timeout_s",),
        help="Seconds that requests in flight may take to finish at the end of the run",
        metavar="S",
    ),
    OptionOverride(option="--seed", keys=("scenario.seed",), help="Seed of all random draws"),
)
"""In the order of `--help` and of the start form: what is asked, how it is asked, when it ends."""


def refuse_changes(running: Scenario, edited: Scenario) -> None:
    """Raise ConfigError where an edit changes more of a run than what may be edited of its load."""
    editable = {f"load.{key}" for key in running.load.editable}
    now, then = edited.model_dump(), running.model_dump()
    for table in now:
        keys, before = now[table] or {}, then[table] or {}  # a table may be left out
        for key, value in keys.items():
            name = f"{table}.{key}"
            if name not in editable and value != before.get(key):
                raise ConfigError(
                    f"{name}: cannot become {value!r} during the run (it is {before.get(key)!r}): "
                    "stop the run and start another"
                )


def prompts_of_form(scenario: Scenario, options: argparse.Namespace) -> list[str]:
    """Return the prompts that the start form offers: those that Locust was started with, and shipped ones."""
    return [source for source in dict.fromkeys((options.prompts, scenario.prompts.source, *SHIPPED)) if source]


def form_labels() -> dict[str, str]:
    """Return what the start form says of each option, in the form's order."""
    return {override.dest: override.help for override in OVERRIDES}


def check_prompts_of_form(source: str, offered: Collection[str]) -> None:
    """Raise ConfigError where the start form asks for prompts that it does not offer."""
    if source.strip() not in {"", *offered}:
        raise ConfigError(
            f"prompts: the form takes {', '.join(SHIPPED)} or what Locust was started with: restart it with --prompts "
            f"{source[:100]}"
        )


def named_scenario(arguments: list[str]) -> Path | None:
    """Return the file that `--scenario` or else `--config` names among the arguments; None without either."""
    found = _found_early(arguments)
    name = found.scenario or found.config
    return Path(name) if name else None


def _found_early(arguments: list[str]) -> argparse.Namespace:
    """Return the options that decide the defaults of Locust's parser, before it parses anything."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--scenario", default="")
    finder.add_argument("--config", default="")
    finder.add_argument("--set", dest="settings", action="append", default=[])
    return finder.parse_known_args(arguments)[0]


def _new_file(text: str) -> str:
    """Return a file's name, as text, since Locust sends options to its workers; its folder must exist."""
    folder = Path(text).parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: there is no folder {folder}")
    return text


DRAIN_ON_SIGTERM_S: Final = 20.0
"""With what follows it, less than the 30 s that Kubernetes leaves a pod by default."""


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return seconds


OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "--scenario": {"default": "", "metavar": "FILE", "help": "Scenario file, if not --config's"},
    "--out": {
        "default": "",
        "metavar": "DIR",
        "help": "Where run folders are made, instead of the scenario's run.folder",
    },
    "--set": {
        "dest": "settings",
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "Any key of the scenario, its value in TOML: load.warmup_s=5; may be given several times",
    },
    "--summary": {
        "choices": ("table", "json", "none"),
        "default": "table",
        "help": "What is printed at the end: tables, summary.json, or nothing",
    },
    "--junit": {
        "type": _new_file,
        "metavar": "FILE",
        "help": "JUnit XML of verdict and gates, for a CI system, written at the end of a headless run",
    },
    "--markdown": {
        "type": _new_file,
        "metavar": "FILE",
        "help": "Summary in Markdown, for a CI system, written at the end of a headless run",
    },
    "--progress": {
        "default": "auto",
        "metavar": "HOW",
        "help": "How a headless run shows its progress on standard error: auto (redrawn on a terminal, else quiet), "
        "off, or a number of seconds between lines",
    },
    "--web-allowed-hosts": {
        "default": "",
        "metavar": "NAMES",
        "help": "Names, separated by commas, that the web UI and /metrics may be reached by, beside IP addresses and "
        "localhost: a proxy's, for example",
    },
    "--metrics-port": {"default": "9646", "metavar": "PORT", "help": "Port of /metrics for Prometheus, or off"},
    "--metrics-host": {"default": LOOPBACK, "metavar": "HOST", "help": "Address that /metrics listens on"},
    "--drain-on-sigterm": {
        "type": _seconds,
        "default": DRAIN_ON_SIGTERM_S,
        "metavar": "SECONDS",
        "help": "How long requests in flight may take after SIGTERM or SIGHUP, where run.drain_timeout_s is more: less "
        f"than the grace time of a container (default {DRAIN_ON_SIGTERM_S:g})",
    },
    "--llmload-linger": {
        "type": float,
        "default": 0.0,
        "metavar": "SECONDS",
        "help": "After a headless run, serve /metrics until it is scraped once more, but no longer than this",
    },
}
"""Options that are not keys of the scenario: argparse's arguments of each. The start form does not show them."""


def add_options(parser: LocustArgumentParser) -> None:
    """Add llmload's options: those that override keys of the scenario, whose defaults mean "unchanged", and others."""
    add: Any = parser.add_argument  # Locust's parser takes `include_in_web_ui`, its groups do not
    for override in OVERRIDES:
        named: dict[str, Any] = {"choices": override.choices} if override.choices else {"metavar": override.metavar}
        add(override.option, default="", help=f"{override.help} [{override.keys[0]}]", **named)
    for option, arguments in OPTIONS.items():
        add(option, include_in_web_ui=False, **arguments)


def own_options() -> frozenset[str]:
    """Return llmload's options, by their names among the parsed options: a worker has its own, not its master's."""
    others = {
        arguments.get("dest", option.removeprefix("--").replace("-", "_")) for option, arguments in OPTIONS.items()
    }
    return frozenset(others | {override.dest for override in OVERRIDES})


def set_defaults(parser: LocustArgumentParser, scenario: Scenario) -> None:
    """Make the scenario's load Locust's defaults, so that the start form and a headless run begin with it."""
    load = scenario.load
    parser.set_defaults(host=scenario.engine.base_url[0], only_summary=True)
    if load.shape is None:
        parser.set_defaults(num_users=load.locust_users, run_time=load.ends_after_s)
    for override in OVERRIDES:
        show_option(parser, override.dest, override.default(scenario), in_form=override.fits(scenario))


def set_spawn_rate(parser: LocustArgumentParser, load: Load) -> None:
    """Let the users that the command line gives start as the load says: a rate that is not set follows them."""
    parsed = parsed_ahead(parser)
    if load.shape is None and parsed is not None:
        parser.set_defaults(spawn_rate=load.spawn_rate_for(parsed.num_users or load.locust_users))


def bind_to_loopback(parser: LocustArgumentParser) -> None:
    """Listen on this machine alone by default; Locust's own default is every interface."""
    parser.set_defaults(web_host=LOOPBACK, master_bind_host=LOOPBACK)


def effective_scenario(path: Path, options: argparse.Namespace, *, is_whole: bool = True) -> Scenario:
    """
    Return the scenario with what the command line or the start form changed; ConfigError if they do not fit.

    Without `is_whole` its load is one that runs already, and whether its window opens is for the caller to check.
    """
    settings, as_set = dict(map(read_setting, options.settings)), scenario_as_set(path, options)
    overrides: dict[str, Any] = {}
    if options.host and options.host != as_set.engine.base_url[0]:
        overrides["engine.base_url"] = options.host
    for override in OVERRIDES:
        overrides |= override.changes(str(getattr(options, override.dest)), as_set)
    if options.out:
        overrides["run.folder"] = options.out
    return load_scenario(path, settings | overrides | _load_overrides(as_set.load, options), is_whole=is_whole)


def scenario_as_set(path: Path, options: argparse.Namespace) -> Scenario:
    """Return the scenario as the file and `--set` have it, or as the file has it where the settings do not fit."""
    return _load_as_far_as_it_fits(path, dict(map(read_setting, options.settings)))


def limit_is_option(path: Path, options: argparse.Namespace) -> bool:
    """Return whether a load that the scenario gives no time limit has one by `--run-time` or by the start form."""
    load = scenario_as_set(path, options).load
    return load.shape is None and load.ends_after_s is None and bool(options.run_time)


def scenario_for_defaults(path: Path) -> Scenario:
    """Return the scenario with the command line's `--set`, for Locust's defaults."""
    settings = _found_early(sys.argv[1:]).settings
    return _load_as_far_as_it_fits(path, dict(map(read_setting, settings)))


def _load_as_far_as_it_fits(path: Path, settings: dict[str, Any]) -> Scenario:
    """Return the scenario with the settings, or without them when they are invalid on their own."""
    try:
        return load_scenario(path, settings, is_whole=False)
    except ConfigError:
        return load_scenario(path, is_whole=False)


def _load_overrides(load: Load, options: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the load that Locust's own options on the command line or in the start form change."""
    values = {key: getattr(options, dest) for key, dest in load.locust_options.items()}
    unset = {"spawn_rate_per_s": load.spawn_rate_for(options.num_users or load.locust_users)}
    return {
        f"load.{key}": value
        for key, value in values.items()
        if (value or (key == "users" and value == 0)) and value != (unset.get(key) or getattr(load, key))
    }


def parsed_ahead(parser: LocustArgumentParser) -> argparse.Namespace | None:
    """Return this process's options as Locust will have them after its start; None for `--help`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        return None
    parsed: argparse.Namespace = parser.parse_known_args(sys.argv[1:])[0]
    if isinstance(parsed.run_time, str):
        with suppress(ValueError):  # Locust reports it
            parsed.run_time = parse_timespan(parsed.run_time)
    return parsed


def scenario_on_command_line() -> Path | None:
    """Return the scenario file that this process was started with."""
    return named_scenario(sys.argv[1:])
