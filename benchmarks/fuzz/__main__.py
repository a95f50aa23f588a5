"""
Feed damaged input to every reader of llmload: `python -m benchmarks.fuzz`.

Each reader gets its share of the time, for mutants of good inputs, and those in pure Python as much again for inputs
that coverage guides (atheris). Exit code 1 where an input ends in an error that is not llmload's own, is refused at
length or without a name, takes 10 s or 100 MB, or gives another result where it is read in another way.
"""

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from benchmarks.fuzz import answers, files, messages
from benchmarks.fuzz.guided import guided, is_there
from benchmarks.fuzz.running import Limits, Run, Tally

READERS: Final = {reader.name: reader for reader in (*answers.READERS, *files.READERS, *messages.READERS)}
_SHOW_S: Final = 5.0


@click.command(help=__doc__)
@click.option("--seconds", type=click.IntRange(min=1), default=900, show_default=True, help="How long, in all.")
@click.option("--seed", type=int, help="Of the mutants; another by default, and printed.")
@click.option("--reader", "names", type=click.Choice(tuple(READERS)), multiple=True, help="Only this one; repeatable.")
@click.option("--inputs", type=click.IntRange(min=1), help="The most mutants a reader gets.")
@click.option("--only", type=click.IntRange(min=0), help="Only the input of that number, by mutation.")
@click.option("--guided/--not-guided", "by_coverage", default=True, help="Whether atheris is used where it is there.")
def main(
    seconds: int, seed: int | None, names: tuple[str, ...], inputs: int | None, only: int | None, *, by_coverage: bool
) -> None:
    """Fuzz the readers."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    readers = [READERS[name] for name in names or READERS]
    by_coverage = by_coverage and only is None and is_there()
    place = Path(tempfile.mkdtemp(prefix="llmload-fuzz-"))
    share_s = seconds / (len(readers) + by_coverage * sum(bool(reader.modules) for reader in readers))
    last = only if only is not None else inputs and inputs - 1
    tallies = []
    for reader in readers:
        limits = Limits(time.monotonic() + share_s, first=only or 0, last=last)
        tallies.append(_shown(Run(reader, seed, limits, place)))
        if by_coverage and reader.modules:
            tallies.append(guided(reader, seed, share_s, place))
            click.echo(_line(tallies[-1]), err=True)
    for tally in tallies:
        for fault in tally.faults:
            click.echo(f"FAULT {tally.reader}: {fault}")
    click.echo(table(tallies))
    faults = sum(tally.faulty for tally in tallies)
    click.echo(
        f"\n{'FAIL' if faults else 'PASS'}: seed {seed}, {faults} faults{f', kept in {place}' if faults else ''}"
    )
    sys.exit(bool(faults))


def _shown(run: Run) -> Tally:
    """Read, and tell now and then how far it is."""
    shown_s = time.monotonic()
    for _ in run.read():
        if time.monotonic() - shown_s > _SHOW_S:
            shown_s = time.monotonic()
            click.echo(_line(run.tally), err=True)
    click.echo(_line(run.tally), err=True)
    return run.tally


def _line(tally: Tally) -> str:
    return f"{tally.reader}: {tally.inputs} inputs, {tally.refused} refused, {tally.faulty} faults"


def table(tallies: Sequence[Tally]) -> str:
    """Return the tallies as a Markdown table."""
    rows = [
        f"| {tally.reader} | {tally.inputs} | {tally.accepted} | {tally.refused} | {tally.faulty} "
        f"| {1000 * tally.slowest_s:.0f} ms | {tally.peak_mb:.0f} MB |"
        for tally in tallies
    ]
    head = "| reader | inputs | accepted | refused | faults | slowest | most memory |"
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|", *rows])


if __name__ == "__main__":
    main()
