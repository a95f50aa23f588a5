"""Which keys of a scenario have an option and a field in the start form of their own, and what stands in it."""

from dataclasses import dataclass
from typing import Any, Final

from llmload.errors import ConfigError
from llmload.scenario import Scenario
from llmload.scenario.reading import read_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
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


KNOBS: Final = (
    Knob(
        option="--model", keys=("model.name", "model.served_as"), help="Model to ask for", metavar="NAME", is_text=True
    ),
    Knob(
        option="--engine",
        keys=("engine.name",),
        help="Engine's name for the tables: vllm, tgi, transformers, ...",
        metavar="NAME",
        is_text=True,
    ),
    Knob(
        option="--prompts",
        keys=("prompts.source",),
        help="Prompts: builtin, lima or a path",
        metavar="SOURCE",
        is_text=True,
    ),
    Knob(option="--prompt-count", keys=("prompts.count",), help="Prompts drawn at random; all where empty"),
    Knob(option="--max-tokens", keys=("request.max_tokens",), help="Most output tokens of a request"),
    Knob(option="--temperature", keys=("request.temperature",), help="Sampling temperature; the engine's where empty"),
    Knob(option="--requests", keys=("load.requests",), help="Requests to send; no such end where empty"),
    Knob(
        option="--rate",
        keys=("load.rate_per_s",),
        help="Requests a second in an open loop; may be changed while running",
    ),
    Knob(
        option="--arrivals",
        keys=("load.arrivals",),
        help="How requests of an open loop arrive",
        is_text=True,
        choices=("constant", "poisson", "gamma"),
    ),
    Knob(option="--cv", keys=("load.cv",), help="Coefficient of variation of gamma arrivals: above 1 in bursts"),
    Knob(option="--speed", keys=("load.speed",), help="Speed of a replayed trace: 2 in half the time"),
    Knob(option="--max-in-flight", keys=("load.max_in_flight",), help="What is due beyond it is dropped and counted"),
    Knob(option="--think-time", keys=("load.think_time_s",), help="Rest of a user between conversations", metavar="S"),
    Knob(option="--warmup", keys=("load.warmup_s",), help="Left out of the judged window", metavar="S"),
    Knob(option="--seed", keys=("scenario.seed",), help="What everything random is drawn from"),
    Knob(
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
