"""The options of both doors, `llmload run` and Locust with llmload's hooks: each is defined here, once."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmload.scenario.load_protocol import Load
from llmload.scenario.loads import LOADS
from llmload.scenario.model import Scenario
from llmload.scenario.reading import load_scenario, read_value, shipped_scenarios


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option; where it sets a key of the scenario, its default is the scenario's value."""

    name: str
    help: str
    short: str | None = None
    alias: str | None = None
    """Another long name."""
    keys: tuple[str, ...] = ()
    """The keys of the scenario that it sets; the first one is shown."""
    metavar: str = "N"
    is_text: bool = False
    """Whether its key takes the text as it is, not a value in TOML."""
    choices: tuple[str, ...] = ()
    default: str | float | None = None
    read: Callable[[str], object] = str
    repeats: bool = False
    """Whether it may be given several times."""
    needs_headless: bool = False
    """Whether it means something only to a run without web UI."""
    stored_as: str | None = None
    """Its name among the parsed options, where that is another one."""
    is_locusts: bool = False
    """Whether Locust itself has the option."""
    only_locust: bool = False
    """Whether `llmload run` lacks the option."""

    @property
    def dest(self) -> str:
        """Its name among the parsed options, and in the start form."""
        return self.stored_as or self.name.removeprefix("--").replace("-", "_")

    @property
    def names(self) -> tuple[str, ...]:
        """How it is written."""
        return tuple(name for name in (self.short, self.name, self.alias) if name is not None)

    @property
    def is_in_form(self) -> bool:
        """Whether it is a field of the start form for the loads that it fits."""
        return bool(self.keys) and not self.is_locusts

    @property
    def default_text(self) -> str:
        """Its default; empty where it has none, or where that is the scenario's value."""
        return "" if self.default is None else _plain(self.default)

    @property
    def help_with_default(self) -> str:
        """Its help, and its default where it has one."""
        return f"{self.help} (default: {self.default_text})" if self.default_text else self.help

    def given(self, value: object) -> str:
        """Return the option with a value, as it is written."""
        return f"{self.name} {_plain(value)}"

    def fits(self, scenario: Scenario) -> bool:
        """Return whether the scenario has the key, set or not: a closed loop has no rate."""
        return self._fits_load(type(scenario.load))

    def _fits_load(self, load: type[Load]) -> bool:
        table, _, key = self.keys[0].partition(".")
        if table != "load":
            return True
        return key in (load.locust_options if self.is_locusts else load.model_fields)

    def default_in(self, scenario: Scenario) -> str:
        """Return the scenario's value as the form shows it; empty for None."""
        table, _, key = self.keys[0].partition(".")
        value = getattr(getattr(scenario, table), key, None)
        return "" if value is None else _plain(value)

    def changes(self, text: str, as_written: Scenario) -> dict[str, Any]:
        """Return the keys that the option's text changes, with their values; an empty text changes nothing."""
        text = text.strip()
        if not text or text == self.default_in(as_written):
            return {}
        return dict.fromkeys(self.keys, text if self.is_text else read_value(text))

    def misfit(self, value: object, load: Load) -> str:
        """Return why the option means nothing to a load that it does not fit, and what to do, in a line."""
        key = self.keys[0].partition(".")[2]
        given = self.given(value)
        if key in type(load).model_fields:
            instead = f"--set load.{key}={_plain(value)}"
            return f"{given}: a load of kind {load.kind!r} does not take it from Locust: give {instead}"
        kinds = [kind for kind, other in LOADS.items() if self._fits_load(other)]
        names = (name for name, file in shipped_scenarios().items() if load_scenario(file).load.kind in kinds)
        example = next((f", such as: llmload run {name} {given}" for name in names), "")
        return (
            f"{given}: a load of kind {load.kind!r} has no {key}: leave the option out, or run a scenario of kind "
            f"{' or '.join(map(repr, kinds))}{example}"
        )


def _plain(value: object) -> str:
    """Return a value as people write it: 20, not 20.0."""
    return str(value).removesuffix(".0")


def _new_file(text: str) -> str:
    """Return a file's name, as text, since Locust sends options to its workers; its folder must exist."""
    folder = Path(text).parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: there is no folder {folder}")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return seconds


LOOPBACK: Final = "127.0.0.1"
DRAIN_ON_SIGTERM_S: Final = 20.0
"""With what follows it, less than the 30 s that Kubernetes leaves a pod by default."""

GROUPS: Final[Mapping[str, tuple[Option, ...]]] = {
    "Engine": (
        Option(
            name="--host",
            help="Address of the engine, with or without /v1",
            short="-H",
            alias="--base-url",
            keys=("engine.base_url",),
            metavar="URL",
            is_text=True,
            is_locusts=True,
        ),
        Option(
            name="--model",
            help="Model name in requests and tables",
            keys=("model.name", "model.served_as"),
            metavar="NAME",
            is_text=True,
        ),
        Option(
            name="--engine",
            help="Engine's name in the tables: vllm, tgi, transformers, ...",
            keys=("engine.name",),
            metavar="NAME",
            is_text=True,
        ),
    ),
    "Prompts and requests": (
        Option(
            name="--prompts",
            help="Prompts: builtin, lima, or a file or folder",
            keys=("prompts.source",),
            metavar="SOURCE",
            is_text=True,
        ),
        Option(name="--prompt-count", help="Prompts drawn at random (empty: all)", keys=("prompts.count",)),
        Option(
            name="--input-tokens",
            help="Exact tokens of each prompt, as the engine counts them: 1024, or {mean=1024, range_ratio=0.5}",
            keys=("prompts.input_tokens",),
        ),
        Option(
            name="--output-tokens",
            help="Exact tokens of each answer, in the same form, where the engine can be kept from ending it",
            keys=("prompts.output_tokens",),
        ),
        Option(name="--max-tokens", help="Maximum output tokens per request", keys=("request.max_tokens",)),
        Option(
            name="--temperature",
            help="Sampling temperature (empty: the engine's default)",
            keys=("request.temperature",),
        ),
    ),
    "Load": (
        Option(
            name="--users",
            help="Users, each with one request in flight at a time",
            short="-u",
            keys=("load.users",),
            stored_as="num_users",
            is_locusts=True,
        ),
        Option(
            name="--spawn-rate",
            help="Users started a second (all at once where absent)",
            short="-r",
            keys=("load.spawn_rate_per_s",),
            is_locusts=True,
        ),
        Option(
            name="--run-time",
            help="How long the load lasts: 90, 90s, 5m, 1h30m",
            short="-t",
            keys=("load.duration_s",),
            metavar="TIME",
            is_locusts=True,
        ),
        Option(
            name="--rate",
            help="Requests per second in an open loop; may be changed during the run",
            keys=("load.rate_per_s",),
        ),
        Option(
            name="--base-rate",
            help="Requests per second of a spike, between its bursts",
            keys=("load.base_rate_per_s",),
        ),
        Option(
            name="--burst-rate", help="Requests per second of a spike, in its bursts", keys=("load.burst_rate_per_s",)
        ),
        Option(
            name="--burst",
            help="Seconds that a burst lasts, at the end of a period",
            keys=("load.burst_s",),
            metavar="S",
        ),
        Option(
            name="--period",
            help="Seconds that base and burst of a spike take together",
            keys=("load.period_s",),
            metavar="S",
        ),
        Option(
            name="--arrivals",
            help="Arrival process of an open loop",
            keys=("load.arrivals",),
            is_text=True,
            choices=("constant", "poisson", "gamma"),
        ),
        Option(
            name="--cv",
            help="Coefficient of variation of gamma arrivals: above 1 burstier than Poisson",
            keys=("load.cv",),
        ),
        Option(name="--speed", help="Speed of a replayed trace: 2 replays it in half the time", keys=("load.speed",)),
        Option(
            name="--max-in-flight",
            help="Maximum requests in flight; arrivals beyond it are dropped and counted",
            keys=("load.max_in_flight",),
        ),
        Option(
            name="--think-time",
            help="Seconds that a user rests between conversations",
            keys=("load.think_time_s",),
            metavar="S",
        ),
        Option(name="--requests", help="Stop after this many requests (empty: no limit)", keys=("load.requests",)),
        Option(
            name="--rounds",
            help="Rounds over all points of a sweep; three or more give intervals",
            keys=("load.rounds",),
        ),
        Option(
            name="--requests-per-user",
            help="Answers for each user in the window of a sweep's point",
            keys=("load.requests_per_user",),
        ),
        Option(
            name="--warmup", help="Seconds of warm-up, before the window opens", keys=("load.warmup_s",), metavar="S"
        ),
        Option(
            name="--drain-timeout",
            help="Seconds that requests in flight may take to finish at the end of the run",
            keys=("run.drain_timeout_s",),
            metavar="S",
        ),
        Option(name="--seed", help="Seed of all random draws", keys=("scenario.seed",)),
    ),
    "Scenario": (
        Option(
            name="--scenario",
            help="Scenario file, if not --config's; llmload run has it as its argument",
            metavar="FILE",
            default="",
            only_locust=True,
        ),
        Option(
            name="--set",
            help="Any key of the scenario, its value in TOML: load.warmup_s=5; may be given several times",
            metavar="KEY=VALUE",
            repeats=True,
            stored_as="settings",
        ),
    ),
    "Results": (
        Option(
            name="--out",
            help="Where run folders are made, instead of the scenario's run.folder",
            metavar="DIR",
            default="",
        ),
        Option(
            name="--summary",
            help="What is printed at the end: tables, summary.json, or nothing",
            choices=("table", "json", "none"),
            default="table",
        ),
        Option(
            name="--progress",
            help="How a headless run shows its progress on standard error: auto (redrawn on a terminal, else quiet), "
            "off, or a number of seconds between lines",
            metavar="HOW",
            default="auto",
        ),
        Option(
            name="--junit",
            help="JUnit XML of verdict and gates, for a CI system, written at the end of a headless run",
            metavar="FILE",
            read=_new_file,
            needs_headless=True,
        ),
        Option(
            name="--markdown",
            help="Summary in Markdown, for a CI system, written at the end of a headless run",
            metavar="FILE",
            read=_new_file,
            needs_headless=True,
        ),
    ),
    "Monitoring": (
        Option(name="--metrics-port", help="Port of /metrics for Prometheus, or off", metavar="PORT", default="9646"),
        Option(name="--metrics-host", help="Address that /metrics listens on", metavar="HOST", default=LOOPBACK),
        Option(
            name="--linger",
            help="After a headless run, serve /metrics until it is scraped once more, for as many seconds at most",
            alias="--llmload-linger",
            metavar="S",
            default=0.0,
            read=_seconds,
            needs_headless=True,
        ),
    ),
    "Processes and the web UI": (
        Option(name="--processes", help="Worker processes on this machine; -1: one per core", is_locusts=True),
        Option(
            name="--drain-on-sigterm",
            help="Seconds that requests in flight may take after SIGTERM or SIGHUP, where run.drain_timeout_s is more: "
            "less than the grace time of a container",
            metavar="S",
            default=DRAIN_ON_SIGTERM_S,
            read=_seconds,
        ),
        Option(
            name="--web-allowed-hosts",
            help="Names, separated by commas, that the web UI and /metrics may be reached by, beside IP addresses and "
            "localhost: a proxy's, for example",
            metavar="NAMES",
            default="",
        ),
    ),
}
"""The options by what they are for, in the order of `--help` and of the start form."""
OPTIONS: Final = tuple(option for group in GROUPS.values() for option in group)
