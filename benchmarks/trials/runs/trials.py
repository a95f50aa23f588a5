"""Random trials: the load, the engine, its faults, and how the run ends."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks import ROOT

ENDS: Final = (
    "run-time",
    "counted",
    "interrupt",
    "interrupt-twice",
    "drain-timeout",
    "ui-stop",
    "autoquit",
    "stages",
)
FAULTS: Final = (
    "http_500",
    "http_429",
    "error_event",
    "reset",
    "early_close",
    "no_finish",
    "stall",
    "stall_first",
    "malformed_chunk",
    "close_after",
)
ENDLESS_S: Final = 600
CUT: Final = frozenset({"interrupt-twice", "drain-timeout"})
"""Ends that need requests in flight, and so get an engine that answers slowly."""
SCENARIO: Final = """\
[tool.locust]
locustfile = "{locustfile}"
[scenario]
name = "whole-run-trial"
seed = {seed}
[engine]
name = "simulated"
base_url = "{url}"
[model]
name = "simulated"
[prompts]
repeat = true
[client.timeouts]
first_token_s = {patience_s:g}
between_tokens_s = {patience_s:g}
[load]
{load}
[run]
drain_timeout_s = {drain_timeout_s:g}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run: its load, its faults, and how it ends."""

    number: int
    seed: int
    end: str
    load: str
    engine: dict[str, object]
    faults: dict[str, float]
    patience_s: float
    drain_timeout_s: float
    stop_after_s: float
    """How long after the first request the run is ended from outside, for ends that need it."""
    again_after_s: float
    """How long after the first Ctrl-C the second follows."""

    def scenario(self, url: str) -> str:
        """Return the scenario for an engine's address."""
        locustfile = "chat_staged.py" if self.end == "stages" else "chat.py"
        return SCENARIO.format(
            locustfile=ROOT / "locustfiles" / locustfile,
            seed=self.seed,
            url=url,
            patience_s=self.patience_s,
            load=self.load,
            drain_timeout_s=self.drain_timeout_s,
        )

    def arguments(self) -> list[str]:
        """Return Locust's options."""
        if self.end == "ui-stop":
            return ["--autostart"]
        return ["--autostart", "--autoquit", "0"] if self.end == "autoquit" else ["--headless"]


def draw_trials(runs: int, seed: int) -> Iterator[Trial]:
    """Yield trials, the same for the same seed; every end comes once before any comes again."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    ends: list[str] = []
    for number in range(runs):
        if not ends:
            ends = dice.sample(ENDS, len(ENDS))
        yield _draw(number, ends.pop(), dice)


def _draw(number: int, end: str, dice: random.Random) -> Trial:
    slow = end in CUT
    kinds = dice.sample(FAULTS, dice.randint(0, 3))
    return Trial(
        number=number,
        seed=dice.randrange(10_000),
        end=end,
        load=_draw_load(end, dice),
        engine={
            "seed": dice.randrange(10_000),
            "slots": dice.choice((4, 16, 64)),
            "ttft_s": round(dice.uniform(0.02, 0.3), 3),
            "itl_s": 0.02 if slow else round(dice.uniform(0.002, 0.02), 3),
            "output_tokens_mean": 1500 if slow else dice.randint(4, 40),
        },
        faults={kind: round(dice.uniform(0.03, 0.2), 3) for kind in kinds},
        patience_s=round(dice.uniform(1.0, 3.0), 1),
        drain_timeout_s=round(dice.uniform(0.3, 1.5), 1) if end == "drain-timeout" else 60.0,
        stop_after_s=round(dice.uniform(0.1, 3.0), 2),
        again_after_s=round(dice.uniform(0.1, 1.0), 2),
    )


def _draw_load(end: str, dice: random.Random) -> str:
    if end == "stages":
        return _draw_stages(dice)
    requests = dice.randint(20, 120)
    stopped_from_outside = end in {"interrupt", "interrupt-twice", "ui-stop"}
    duration_s = ENDLESS_S if stopped_from_outside else round(dice.uniform(2.0, 5.0), 1)
    until = f"requests = {requests}" if end == "counted" else f"duration_s = {duration_s}"
    if dice.random() < 0.5:
        return f'kind = "closed_loop"\nusers = {dice.randint(2, 12)}\n{until}'
    arrivals = dice.choice(("constant", "poisson", "gamma"))
    cv = "\ncv = 2" if arrivals == "gamma" else ""
    return f'kind = "open_loop"\nrate_per_s = {dice.randint(8, 40)}\narrivals = "{arrivals}"{cv}\n{until}'


def _draw_stages(dice: random.Random) -> str:
    key, maximum = dice.choice((("users", 12), ("rate_per_s", 40)))
    stages = ", ".join(f"{{ {key} = {dice.randint(2, maximum)}, duration_s = {dice.randint(2, 3)} }}" for _ in range(2))
    return f'kind = "staged"\nstages = [{stages}]'
