"""
What damaged and hostile run folders do to every output of `llmload`: `python -m benchmarks.trials.folders`.

Folders of real runs are changed in one thing each, drawn from a seed. Every output of each is made. Exit code 1 where
one ends in a traceback, hangs, needs 100 MB, is not whole, or is refused without naming the folder.
"""

import gc
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import click

from benchmarks.trials.folders.mutations import mutate
from benchmarks.trials.folders.samples import LOADS, SUITE, make_samples
from benchmarks.trials.folders.trial import GOOD, OUTPUTS, QUICK, SUITES, Came, outcomes
from llmload.runs.folder import SUMMARY


@click.command(help=__doc__)
@click.option("--mutants", type=click.IntRange(min=1), default=720, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--only", type=int, help="Only the mutant of that number.")
@click.option("--samples", type=click.Path(path_type=Path), help="Where run folders are kept, or made.")
@click.option("--quick", is_flag=True, help="Only outputs that between them read every file by every reader.")
@click.option("--loads", default=",".join(LOADS), show_default=True, help="Which runs.")
def main(mutants: int, seed: int, only: int | None, samples: Path | None, loads: str, *, quick: bool) -> None:
    """Run the trial."""
    with tempfile.TemporaryDirectory() as temporary:
        home = samples or Path(temporary) / "samples"
        folders = sorted(path for path in home.glob("*") if not path.name.endswith("-run"))
        if not folders:
            home.mkdir(parents=True)
            folders = make_samples(home, tuple(loads.split(",")))
        numbers = range(mutants) if only is None else [only]
        sys.exit(trial(folders, numbers, seed, Path(temporary), QUICK if quick else tuple(OUTPUTS)))


def trial(
    folders: list[Path], numbers: Sequence[int], seed: int, place: Path, names: Collection[str] = tuple(OUTPUTS)
) -> int:
    """Make and judge the mutants of those numbers, print a table, and return the exit code."""
    gc.collect()
    gc.freeze()
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*names, "all")}
    bad = 0
    for number in numbers:
        found = _mutant(folders, number, seed, place, names)
        faults = [came for came in found if came.kind not in GOOD]
        bad += bool(faults)
        for came in found:
            counts.setdefault(came.output, Counter())[came.kind] += 1
    print(table(counts))
    print(f"\n{len(numbers) - bad} of {len(numbers)} mutants good, {bad} not: {'FAIL' if bad else 'PASS'}")
    return 1 if bad else 0


MAX_SHOWN: Final = 300
"""Characters of a fault."""


def _mutant(folders: list[Path], number: int, seed: int, place: Path, names: Collection[str]) -> list[Came]:
    draw = random.Random(f"{seed} {number}")  # noqa: S311 - mutants, not secrets
    sample = folders[number % len(folders)]
    run, out = place / f"mutant-{number}", place / f"out-{number}"
    shutil.copytree(sample, run)
    try:
        what = mutate(run, draw)
        sane = sample if (sample / SUMMARY).is_file() else sample.with_name("timed")
        found = outcomes(run, out, sane, tuple(SUITES) if sample.name == SUITE else names)
    finally:
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
    for came in found:
        if came.kind not in GOOD:
            last = came.text.strip().rpartition("\n")[2][:MAX_SHOWN]
            print(f"{number}: {sample.name}, {what}: {came.output}: {came.kind}: {last}", flush=True)
    return found


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as a Markdown table, a row an output."""
    kinds = sorted({kind for each in counts.values() for kind in each}, key=lambda kind: (kind not in GOOD, kind))
    lines = [f"| output | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    lines += [f"| {name} | {' | '.join(str(each[kind]) for kind in kinds)} |" for name, each in counts.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
