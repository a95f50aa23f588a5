"""
`python -m benchmarks.trials.compare`: how often `llmload compare` errs, and how long runs must be to find a slowdown.

`rates` makes pairs of runs of equal systems and of slowed ones in virtual time; `lengths` does so for runs of several
lengths on machines of several steadinesses; `real` makes pairs with Locust on the simulated engine; `speed` times one
comparison of large runs.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from benchmarks.tools.virtual_engine import Load, Noise
from benchmarks.tools.virtual_runs import SETTINGS, WARMUP_S, System, write_run
from benchmarks.trials.compare.rates import Tally, compare_folders, compare_pairs, strictly
from llmload.compare.comparison import Comparison, Outcome
from llmload.scenario.reading import find_scenario, locust_arguments
from llmload.simulator import spawn

SLOWER = 0.05


@click.group()
def main() -> None:
    """Error rates of comparisons."""


@main.command()
@click.option("--pairs", default=200, show_default=True)
@click.option("--minutes", default=5.0, show_default=True, help="Length of the window.")
@click.option("--users", default=8, show_default=True)
@click.option("--rate", type=float, help="Arrivals a second (Poisson) instead of users.")
@click.option(
    "--wander", default=Noise().wander, show_default=True, help="Standard deviation of the machine's log speed."
)
@click.option("--between", default=0.0, show_default=True, help="Standard deviation of log speed between runs.")
@click.option("--runs", default=1, show_default=True, help="Runs a side.")
@click.option("--first-seed", default=1, show_default=True, help="First seed of the noise.")
@click.option("--kinds", default="equal,all,decode,prefill", show_default=True, help="What is 5 % slower.")
def rates(
    pairs: int,
    minutes: float,
    users: int,
    rate: float | None,
    wander: float,
    between: float,
    runs: int,
    first_seed: int,
    kinds: str,
) -> None:
    """Outcomes for equal systems, and for a candidate that is 5 % slower."""
    base = System(noise=Noise(wander=wander, between_runs=between))
    seconds = minutes * 60 + WARMUP_S
    load = Load(duration_s=seconds, users=users) if rate is None else Load(duration_s=seconds, rate_per_s=rate)
    for index, kind in enumerate(kinds.split(",")):
        candidate = base if kind == "equal" else base.slower(kind, SLOWER)
        tallies = {"default": Tally(), "strict": Tally()}
        for found in compare_pairs(
            base, candidate, load, pairs=pairs, runs=runs, first_seed=first_seed + index * 1_000_000
        ):
            tallies["default"].add(found)
            tallies["strict"].add(strictly(found))
        title = "equal systems" if kind == "equal" else f"{kind} {SLOWER:.0%} slower"
        print(f"\n{title}: {pairs} pairs of {runs} x {minutes:g} min, wander {wander:.1%}, between runs {between:.1%}")
        for name, tally in tallies.items():
            print(f"  {name:8} {'; '.join(tally.line(outcome) for outcome in tally.seen())}")
        for metric, counts in tallies["default"].metrics.items():
            print(f"    {metric:34} {', '.join(f'{outcome} {count}' for outcome, count in counts.most_common())}")
        sys.stdout.flush()


@main.command()
@click.option("--pairs", default=40, show_default=True)
@click.option("--minutes", "lengths", default="1,2,5,10", show_default=True)
@click.option("--wanders", default="0.01,0.02,0.03", show_default=True)
@click.option("--users", default=8, show_default=True)
def lengths(pairs: int, lengths: str, wanders: str, users: int) -> None:
    """How often a slowdown of 5 % is found, and equal systems pass, by run length and machine noise."""
    print("| speed varies by | minutes in window | requests | 5 % slower: FAIL | equal: PASS | equal: FAIL |")
    print("|---:|---:|---:|---:|---:|---:|")
    for wander in map(float, wanders.split(",")):
        base = System(noise=Noise(wander=wander))
        for minutes in map(float, lengths.split(",")):
            load = Load(duration_s=minutes * 60 + WARMUP_S, users=users)
            slower, equal, requests = Tally(), Tally(), 0
            for tally, candidate, seed in ((slower, base.slower("all", SLOWER), 1), (equal, base, 1_000_001)):
                for found in compare_pairs(base, candidate, load, pairs=pairs, first_seed=seed):
                    tally.add(found)
                    requests = found.base_requests[0]
            shares = (slower.share(Outcome.FAIL), equal.share(Outcome.PASS), equal.share(Outcome.FAIL))
            print(f"| {wander:.0%} | {minutes:g} | {requests} | {' | '.join(shares)} |", flush=True)


@main.command()
@click.option("--pairs", default=4, show_default=True)
@click.option("--minutes", default=1.0, show_default=True)
@click.option("--users", default=8, show_default=True)
def real(pairs: int, minutes: float, users: int) -> None:
    """Outcomes for pairs run by Locust on the simulated engine: equal, and with an engine 5 % slower."""
    with tempfile.TemporaryDirectory(prefix="llmload-compare-") as temporary:
        for kind in ("equal", "slower"):
            tallies = {"default": Tally(), "strict": Tally()}
            for pair in range(pairs):
                folder = Path(temporary) / kind / str(pair)
                found = _real_pair(folder, SLOWER if kind == "slower" else 0.0, minutes, users)
                tallies["default"].add(found)
                tallies["strict"].add(strictly(found))
            print(f"\n{'equal engines' if kind == 'equal' else '5 % slower'}: {pairs} pairs of {minutes:g} min")
            for name, tally in tallies.items():
                print(f"  {name:8} {'; '.join(tally.line(outcome) for outcome in tally.seen())}", flush=True)


def _real_pair(folder: Path, slower: float, minutes: float, users: int) -> Comparison:
    slowed = {name: getattr(SETTINGS, name) * (1 + slower) for name in ("ttft_s", "prefill_s_per_token", "itl_s")}
    folders = []
    for name, settings in (("base", SETTINGS), ("cand", replace(SETTINGS, **slowed))):
        with spawn(settings) as engine:
            changes: dict[str, str | float | None] = {
                "host": engine.url,
                "users": users,
                "run_time": f"{minutes * 60 + WARMUP_S:.0f}s",
                "out": str(folder / name),
                "metrics_port": "off",
            }
            settings_of_load = (f"load.warmup_s={WARMUP_S}",)
            arguments = locust_arguments(find_scenario("demo"), changes, settings_of_load)
            subprocess.run([sys.executable, "-m", "locust", *arguments, "--summary", "none"], check=True)
        (run,) = (folder / name).iterdir()
        folders.append(run)
    return compare_folders(folders[:1], folders[1:], ["invalid"])  # a busy machine must not end the trial


@main.command()
@click.option("--requests", default=10_000, show_default=True)
def speed(requests: int) -> None:
    """Time the command on two runs with 64 users."""
    system = System(settings=replace(SETTINGS, slots=64))
    load = Load(duration_s=requests / 25 + WARMUP_S, users=64)
    with tempfile.TemporaryDirectory(prefix="llmload-compare-") as temporary:
        folders = [str(write_run(Path(temporary) / str(seed), system, load, seed)) for seed in (1, 2)]
        size_mb = sum(file.stat().st_size for file in Path(temporary).rglob("*.jsonl")) / 1e6
        before = time.perf_counter()
        command = [sys.executable, "-m", "llmload.cli.main", "compare", *folders]
        output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        took_s = time.perf_counter() - before
        print(output)
        print(f"{took_s:.1f} s for two runs, {size_mb:.0f} MB")


if __name__ == "__main__":
    main()
