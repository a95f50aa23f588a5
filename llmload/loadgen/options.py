"""llmload's options on Locust's command line and in its start form, and Locust's defaults by the scenario."""

from locust.argument_parser import LocustArgumentParser
from locust.util.timespan import parse_timespan

import argparse
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from llmload.errors import ConfigError, did_you_mean
from llmload.loadgen.locust_compat import show_option
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.load_protocol import Load
from llmload.scenario.options import GROUPS, LOOPBACK, OPTIONS, Option
from llmload.scenario.reading import read_setting

SHIPPED: Final = ("builtin", "synthetic", "lima")
"""Prompts that are known by a name; others are files, or data sets of a hub."""
FORM: Final = tuple(option for option in OPTIONS if option.is_in_form)
"""The fields of the start form that are not Locust's own."""


def refuse_changes(running: Scenario, edited: Scenario) -> None:
    """Raise ConfigError where an edit changes more of a run than what may be edited of its load."""
    editable = {f"load.{key}" for key in running.load.editable}
    now, then = edited.model_dump(), running.model_dump()
    for table in now:
        if isinstance(now[table], list):
            now[table], then[table] = {"entries": now[table]}, {"entries": then[table]}
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
    return {option.dest: option.help for option in FORM}


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


def add_options(parser: LocustArgumentParser) -> None:
    """Add llmload's options in their groups: the default of one that sets a key of the scenario means "unchanged"."""
    parser.prog = "locust"  # not `__main__.py`, where `llmload run` starts it
    for title, options in GROUPS.items():
        group = parser.add_argument_group(f"llmload: {title}")
        for option in options:
            if not option.is_locusts:
                group.add_argument(*option.names, **_arguments(option))
            elif option.alias is not None:
                group.add_argument(
                    option.alias, dest=option.dest, metavar=option.metavar, help=f"The same as {option.name}"
                )
    # Locust answers --help before it imports the locustfile, and so without these.
    parser.add_argument(HELP, action=_ShowOptions, nargs=0, include_in_web_ui=False, help="Show llmload's options")


HELP: Final = "--help-llmload"


class _ShowOptions(argparse.Action):
    """Prints the options of both doors, Locust's own among them, and ends the process."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        shown = argparse.ArgumentParser("locust", usage="locust -f FILE [options]", add_help=False)
        for title, options in GROUPS.items():
            group = shown.add_argument_group(title)
            for option in options:
                group.add_argument(*option.names, **_arguments(option))
        shown.print_help()
        parser.exit()


def _arguments(option: Option) -> dict[str, Any]:
    """Return an option as argparse takes it."""
    given = {"choices": option.choices} if option.choices else {"metavar": option.metavar}
    if option.repeats:
        return {"dest": option.dest, "action": "append", "default": [], "help": option.help, **given}
    default = "" if option.keys else option.default
    key = f" [{option.keys[0]}]" if option.keys else ""
    return {"type": option.read, "default": default, "help": option.help_with_default + key, **given}


def own_options() -> frozenset[str]:
    """Return llmload's options, by their names among the parsed options: a worker has its own, not its master's."""
    return frozenset(option.dest for option in OPTIONS if not option.is_locusts)


def set_defaults(parser: LocustArgumentParser, scenario: Scenario) -> None:
    """Make the scenario's load Locust's defaults, so that the start form and a headless run begin with it."""
    load = scenario.load
    parser.set_defaults(host=scenario.engine.base_url[0], only_summary=True)
    if load.shape is None:
        parser.set_defaults(num_users=load.locust_users, run_time=load.ends_after_s)
    for option in FORM:
        show_option(parser, option.dest, option.default_in(scenario), in_form=option.fits(scenario))


def set_spawn_rate(parser: LocustArgumentParser, load: Load) -> None:
    """Let the users that the command line gives start as the load says: a rate that is not set follows them."""
    parsed = parsed_ahead(parser)
    if load.shape is None and parsed is not None:
        parser.set_defaults(spawn_rate=load.spawn_rate_for(parsed.num_users or load.locust_users))


_OF_ANY_USERS: Final = frozenset({"num_users", "spawn_rate"})


def refuse_meaningless(
    parser: LocustArgumentParser, parsed: argparse.Namespace, scenario: Scenario, *, other_users: bool = False
) -> None:
    """
    Raise ConfigError for an option that was given and means nothing to the scenario's load, or to the web UI.

    `other_users` says whether the locustfile has users that the load does not start: Locust's options are theirs.
    """
    for option in OPTIONS:
        value = getattr(parsed, option.dest)
        if value == parser.get_default(option.dest) or (other_users and option.dest in _OF_ANY_USERS):
            continue
        if option.keys and not option.fits(scenario):
            raise ConfigError(option.misfit(value, scenario.load))
        if option.needs_headless and not (parsed.headless or parsed.worker):
            given = option.given(value)
            raise ConfigError(f"{given}: means nothing with the web UI: run headless, or leave it out")


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
    for option in FORM:
        overrides |= option.changes(str(getattr(options, option.dest)), as_set)
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


def has_mistyped(parser: LocustArgumentParser) -> bool:
    """Return whether the command line has an option that is not known but looks like one that is."""
    unknown = parser.parse_known_args(sys.argv[1:])[1]
    return any(did_you_mean(word, parser._option_string_actions) for word in unknown)


def scenario_on_command_line() -> Path | None:
    """Return the scenario file that this process was started with; None where it names none."""
    return named_scenario(sys.argv[1:])
