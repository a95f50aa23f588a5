"""
How many numbers of real engines the sizing holds that it was not made with: `python -m benchmarks.trials.unseen_sizes`.

The numbers were found in public logs and written down, in two files, before llmload was run on any of them. Each is
derived as a user would ask for it. What llmload said of the second set when it first saw it is kept beside it.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

import click

from benchmarks import ROOT
from llmload.errors import ConfigError
from llmload.sizing.additions import drafter_layer, with_drafter
from llmload.sizing.architecture import Layer, ModelSpec
from llmload.sizing.cards import Gpu, find_gpu
from llmload.sizing.catalogue import catalogue, load_model
from llmload.sizing.engine_pools import (
    LlamaCppPool,
    RequestPool,
    SglangPool,
    VllmPool,
    longest_request,
    request_pool,
)
from llmload.sizing.engines import EngineOptions
from llmload.sizing.families import model_from_config
from llmload.sizing.fit import Deployment, DeploymentRequest, Fit, fit, plan_deployment
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache
from llmload.sizing.overhead import Estimate
from llmload.sizing.parallelism import rank_model
from llmload.units import GIB, MIB_PER_GIB

DATA: Final = ROOT / "tests" / "sizing" / "data"
SETS: Final[Mapping[str, Path]] = {"first": DATA / "unseen_numbers.json", "second": DATA / "blind_numbers.json"}
FORECAST: Final = DATA / "blind_forecast.json"
"""The estimates of the second set as they were when it was first run, null where llmload refused."""
ARITHMETIC_PERCENT: Final = 1.0
"""How far a count may be off that follows from a pool or a model alone."""
FIT_PERCENT: Final = 5.0
"""How far a deployment as a whole may be off, unless the number is within the estimate's own bounds."""
Kind = TypeVar("Kind")
OF_A_DEPLOYMENT: Final = {"weights_gib", "pool_gib", "tokens", "total_tokens", "compute_mib"}


@cache
def runs(name: str) -> tuple[Mapping[str, Any], ...]:
    """Return the runs of a set with their sources, each with its model's config where that is not in the catalogue."""
    document = json.loads(SETS[name].read_text(encoding="utf-8"))
    return tuple({**run, "config": document["configs"].get(run["model"])} for run in document["runs"])


def model_of(run: Mapping[str, Any]) -> ModelSpec:
    """Return the model of a run: from the catalogue or its own config, with what its checkpoint declares."""
    name, declared, config = run["model"], run.get("declares"), run["config"]
    if declared:
        config = {**catalogue()[name.lower()]["config"], **declared}
    return load_model(name) if config is None else model_from_config(HfConfig(config, name), name)


def request_of(run: Mapping[str, Any]) -> DeploymentRequest:
    """Return what a user would ask; raises ConfigError where an option is not known."""
    said = {field.name for field in fields(EngineOptions)}
    options = {key: value for key, value in run["asked"].items() if key in said}
    asked = {key: value for key, value in run["asked"].items() if key not in said}
    try:
        return DeploymentRequest(model=model_of(run), gpu=card_of(run), options=EngineOptions(**options), **asked)
    except TypeError as error:
        raise ConfigError(f"an option is not known: {error}") from None


def card_of(run: Mapping[str, Any]) -> Gpu:
    """Return the card of a run, its memory as the log says it where it does."""
    card = find_gpu(run["gpu"] or "H100-SXM5")
    return replace(card, total_gib=run["gpu_memory_gib"]) if run["gpu_memory_gib"] else card


def fit_of(run: Mapping[str, Any]) -> Fit:
    """Return the estimate of a whole run."""
    return fit(plan_deployment(request_of(run)))


def plan_of(run: Mapping[str, Any]) -> Deployment:
    """Return the deployment that a run's settings mean; its card matters only where the run names one."""
    asked = request_of(run)
    context = asked.context_tokens or asked.model.max_position_tokens or 4096
    return plan_deployment(replace(asked, context_tokens=context))


def cache_of(run: Mapping[str, Any]) -> KvCache:
    """Return the cache of one GPU of a run, its drafter's layer among the others."""
    plan = plan_of(run)
    layer = drafter_layer(plan.model, plan.engine)
    part = with_drafter(rank_model(plan.model, plan.parallelism), layer, plan.parallelism)
    return KvCache(model=part, element_bytes=KV_ELEMENT_BYTES[plan.kv_dtype])


def pool_of(run: Mapping[str, Any]) -> RequestPool:
    """Return how the engine of a run divides its cache."""
    return request_pool(cache_of(run), plan_of(run).engine)


def _kind(found: object, kind: type[Kind]) -> Kind:
    if not isinstance(found, kind):
        raise ConfigError(f"{type(found).__name__} does not give the number that the record has")
    return found


def _pool_bytes(run: Mapping[str, Any]) -> float:
    return float(run["given"]["pool_gib"]) * GIB


def _blocks(run: Mapping[str, Any]) -> int:
    return _kind(pool_of(run), VllmPool).blocks.blocks(int(_pool_bytes(run)))


def _tokens_of_pool(run: Mapping[str, Any]) -> float:
    """Tokens of a logged pool, as the version counts them: since 0.21, those of the requests that fit."""
    pool, plan = pool_of(run), plan_of(run)
    if isinstance(pool, SglangPool):
        return _pool_bytes(run) / pool.token_bytes
    if plan.engine.version >= (0, 21):
        return pool.requests(_pool_bytes(run), plan.context_tokens) * plan.context_tokens
    return _kind(pool, VllmPool).blocks.tokens(_blocks(run))


def _total_tokens(run: Mapping[str, Any]) -> Estimate:
    """SGLang's max_total_num_tokens of a whole deployment."""
    tight = fit_of(run).tightest
    pool = _kind(tight.pool, SglangPool)
    return Estimate(*(float(pool.tokens(figure)) for figure in tight.pool_bytes.figures))


def _longest(run: Mapping[str, Any]) -> float:
    """Tokens of the longest request that a logged pool holds."""
    return longest_request(pool_of(run), _pool_bytes(run), plan_of(run).context_tokens)


def _concurrency(run: Mapping[str, Any]) -> float:
    return pool_of(run).requests(_pool_bytes(run), plan_of(run).context_tokens)


def _weights(run: Mapping[str, Any]) -> Estimate:
    tight = fit(plan_of(run)).tightest
    loaded = tight.weights_bytes + tight.tower_bytes + tight.drafter_bytes + tight.lora_bytes
    return Estimate(*(figure / GIB for figure in loaded.figures))


def _pool(run: Mapping[str, Any]) -> Estimate:
    return Estimate(*(figure / GIB for figure in fit_of(run).tightest.pool_bytes.figures))


def _exactly(derive: Callable[[Mapping[str, Any]], float]) -> Callable[[Mapping[str, Any]], Estimate]:
    return lambda run: Estimate(*[derive(run)] * 3)


def _slots_mib(run: Mapping[str, Any]) -> float:
    """MiB of llama.cpp's keys and values, without recurrent states and drafts."""
    pool, plan = _kind(pool_of(run), LlamaCppPool), plan_of(run)
    slot = pool.slot_bytes(plan.context_tokens) - pool.state_bytes - pool.drafter_bytes(plan.context_tokens)
    return plan.engine.max_num_seqs * slot / GIB * MIB_PER_GIB


def _states(run: Mapping[str, Any]) -> float:
    pool = pool_of(run)
    slots = float(run["given"].get("slots", 1))
    if isinstance(pool, SglangPool):  # which keeps one slot more than it says
        return pool.state_bytes * (slots + 1) / GIB
    return _kind(pool, LlamaCppPool).state_bytes * slots / GIB


def _drafter_cache(run: Mapping[str, Any]) -> float:
    plan = plan_of(run)
    layer = _kind(drafter_layer(plan.model, plan.engine), Layer)
    alone = KvCache(model=replace(plan.model, decoder=(layer,)), element_bytes=2)
    return alone.sequence_bytes(run["given"]["tokens"]) / GIB


def _compute(run: Mapping[str, Any]) -> Estimate:
    buffer = fit(plan_of(run)).tightest.overhead.activation_bytes
    return Estimate(*(figure / GIB * MIB_PER_GIB for figure in buffer.figures))


DERIVED: Final[Mapping[str, Callable[[Mapping[str, Any]], Estimate]]] = {
    "weights_gib": _weights,
    "pool_gib": _pool,
    "tokens": lambda run: fit_of(run).pool_tokens,
    "total_tokens": _total_tokens,
    "longest_of_pool": _exactly(_longest),
    "blocks_of_pool": _exactly(_blocks),
    "tokens_of_pool": _exactly(_tokens_of_pool),
    "concurrency_of_pool": _exactly(_concurrency),
    "kv_mib": _exactly(_slots_mib),
    "states_gib": _exactly(_states),
    "states_mib": _exactly(lambda run: _states(run) * MIB_PER_GIB),
    "drafter_cache_gib": _exactly(_drafter_cache),
    "compute_mib": _compute,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One number of a run beside its estimate; None: llmload refuses to give one."""

    run: str
    quantity: str
    logged: float
    estimate: Estimate | None

    @property
    def bounded(self) -> bool:
        """Whether the estimate has bounds that a measured number must be within."""
        return self.quantity in OF_A_DEPLOYMENT

    @property
    def inside(self) -> bool:
        """Whether the number is within low and high."""
        return self.estimate is not None and self.estimate.low <= self.logged <= self.estimate.high

    @property
    def verdict(self) -> str:
        """Held, off or refused."""
        if self.estimate is None:
            return "refused"
        percent = FIT_PERCENT if self.bounded else ARITHMETIC_PERCENT
        rounded_off = 0.01 if self.quantity.endswith("_gib") else 0.0  # two figures of two digits
        near = abs(self.estimate.best - self.logged) <= max(abs(self.logged) * percent / 100, rounded_off)
        return "held" if near or (self.bounded and self.inside) else "off"

    @property
    def percent_off(self) -> float | None:
        """How far the best estimate is off, in percent of the number."""
        return None if self.estimate is None else 100 * abs(self.estimate.best - self.logged) / self.logged


@cache
def judged(name: str) -> tuple[Judged, ...]:
    """Return every number of a set beside its estimate, in the order of the file."""
    return tuple(_judge(run, quantity) for run in runs(name) for quantity in run["logged"])


def forecast() -> list[Judged]:
    """Return the numbers of the second set beside what was estimated when it was first run."""
    estimates = json.loads(FORECAST.read_text(encoding="utf-8"))["estimates"]
    return [
        Judged(run=run["id"], quantity=quantity, logged=logged, estimate=Estimate(*found) if found else None)
        for run in runs("second")
        for quantity, logged in run["logged"].items()
        for found in [estimates[run["id"]][quantity]]
    ]


def _judge(run: Mapping[str, Any], quantity: str) -> Judged:
    try:
        found = DERIVED[quantity](run)
    except ConfigError:
        found = None
    return Judged(run=run["id"], quantity=quantity, logged=run["logged"][quantity], estimate=found)


def summary(numbers: Sequence[Judged]) -> str:
    """Return how many numbers are held, off and refused, how many outside of their bounds, and the median error."""
    counts = Counter(number.verdict for number in numbers)
    outside = sum(number.bounded and number.estimate is not None and not number.inside for number in numbers)
    parts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("held", "off", "refused"))
    middle = median(number.percent_off for number in numbers if number.percent_off is not None)
    return f"{len(numbers)} numbers: {parts}; {outside} outside of low and high; median error {middle:.2g} %"


def _table(numbers: Sequence[Judged]) -> str:
    lines = [f"{'run':<38}{'number':<22}{'logged':>12}{'low':>12}{'best':>12}{'high':>12}"]
    for number in numbers:
        cells = "".join(f"{x:>12,.2f}" for x in number.estimate.figures) if number.estimate else " " * 36
        lines.append(f"{number.run[:37]:<38}{number.quantity:<22}{number.logged:>12,.2f}{cells}  {number.verdict}")
    return "\n".join(lines)


@click.command()
def main() -> None:
    """Print each number beside its estimate, and how many of each set are held, off and refused."""
    first, second = judged("first"), judged("second")
    click.echo(_table([*first, *second]))
    click.echo(f"first set             {summary(first)}")
    click.echo(f"second set, forecast  {summary(forecast())}")
    click.echo(f"second set, now       {summary(second)}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.unseen_sizes")
