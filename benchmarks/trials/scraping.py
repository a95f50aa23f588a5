"""
What being scraped does to a run: `python -m benchmarks.trials.scraping`.

Equal pairs of runs on the truth engine, one scraped and one not: the ratio of each pair's ITL p99, as measured, and
relative to the engine's log. llmload has one core, scraper and engine share another. Other work on the machine changes
the measured ratio; it changes the one relative to the log less.
"""

import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.request import Request, urlopen

import click
import numpy as np
from rich.console import Console

from benchmarks.tools.bench_run import Bench, ClientRun, Cores, run_client
from benchmarks.tools.llmload_client import Llmload
from benchmarks.tools.load_client import Command, Task
from benchmarks.tools.pinned import adopt_orphans
from benchmarks.tools.requirements import Requirement, at_most, requirements_table
from benchmarks.tools.work import Work
from benchmarks.trials.exporter import OPEN_METRICS, served_scrape_ms
from llmload.scenario.reading import free_port

MAX_ITL_CHANGE: Final = 0.01
MAX_CPU_SHARE: Final = 0.01
MAX_SCRAPE_MS: Final = 6.0


@dataclass(frozen=True, slots=True)
class LlmloadWithMetrics(Llmload):
    """llmload with its metrics served on a port."""

    port: int = 0

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        plain = Llmload.command(self, task)
        return Command(arguments=(*plain.arguments, "--metrics-port", str(self.port)), environment=plain.environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a run reported and used."""

    carried_tokens_per_s: float
    itl_p99_s: float | None
    true_itl_p99_s: float
    """By the engine's own log."""
    cpu_s: float
    wall_s: float

    @classmethod
    def of(cls, run: ClientRun) -> Self:
        """Return the figures of a trial."""
        return cls(
            carried_tokens_per_s=run.truth.steady_chunks_per_s(),
            itl_p99_s=run.reported.itl_p99_s,
            true_itl_p99_s=float(np.quantile(run.truth.gaps_s, 0.99)),
            cpu_s=run.usage.cpu_s,
            wall_s=run.usage.wall_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same work scraped and alone, and the number of scrapes."""

    scraped: Reading
    alone: Reading
    scrapes: int

    @property
    def itl_ratio(self) -> float | None:
        """ITL p99 of the scraped run over that of the other."""
        with_s, without_s = self.scraped.itl_p99_s, self.alone.itl_p99_s
        return with_s / without_s if with_s and without_s else None

    @property
    def true_itl_ratio(self) -> float:
        """The same ratio by the engine's log: the machine's change, not the scraping's."""
        return self.scraped.true_itl_p99_s / self.alone.true_itl_p99_s

    @property
    def cpu_ratio(self) -> float:
        """Processor time of the scraped run over that of the other."""
        return self.scraped.cpu_s / self.alone.cpu_s


@contextmanager
def scraping(port: int, every_s: float) -> Iterator[list[int]]:
    """Scrape as Prometheus does while the context lasts; the size of each response in bytes is appended to the list."""
    sizes: list[int] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(every_s):
            try:
                with urlopen(
                    Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": OPEN_METRICS}), timeout=5
                ) as answer:
                    sizes.append(len(answer.read()))
            except OSError:  # the run has not begun, or has ended
                continue

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def run_pair(number: int, work: Work, requests: int, every_s: float, bench: Bench) -> Pair:
    """Run the work scraped and alone, in alternating order."""
    runs, scrapes = {}, 0
    for name in ("scraped", "alone") if number % 2 else ("alone", "scraped"):
        client, subfolder = LlmloadWithMetrics(port=free_port()), f"{name}-{number}"
        if name == "scraped":
            with scraping(client.port, every_s) as sizes:
                runs[name] = run_client(client, work, requests, bench=bench, subfolder=subfolder)
            scrapes = len(sizes)
        else:
            runs[name] = run_client(client, work, requests, bench=bench, subfolder=subfolder)
    return Pair(scraped=Reading.of(runs["scraped"]), alone=Reading.of(runs["alone"]), scrapes=scrapes)


def judge_pairs(pairs: Sequence[Pair], work: Work, every_s: float, times_ms: Sequence[float]) -> list[Requirement]:
    """Judge the medians over all pairs, and a scrape's cost (`times_ms`) relative to the run's."""
    known = [(ratio, pair.true_itl_ratio) for pair in pairs if pair.scrapes and (ratio := pair.itl_ratio) is not None]
    change = abs(statistics.median(ratio for ratio, _ in known) - 1) if known else None
    beside = abs(statistics.median(ratio / true for ratio, true in known) - 1) if known else None
    alone = [pair.alone for pair in pairs]
    busy = statistics.median(run.cpu_s / run.wall_s for run in alone)
    carried = statistics.median(run.carried_tokens_per_s for run in alone)
    share = statistics.median(times_ms) / 1000 / every_s / busy
    label = f"{work.label}, {carried:,.0f} tok/s"
    return [
        at_most(label, "ITL p99 changed by (median of pairs)", change, MAX_ITL_CHANGE, "{:.2%}"),
        at_most(label, "the same relative to the engine's log", beside, MAX_ITL_CHANGE, "{:.2%}"),
        at_most(label, "a scrape, processor time, ms (median)", statistics.median(times_ms), MAX_SCRAPE_MS, "{:.2f}"),
        at_most(label, "a scrape, processor time, ms (worst)", max(times_ms), MAX_SCRAPE_MS, "{:.2f}"),
        at_most(label, f"scraping every {every_s:g} s, of llmload's CPU", share, MAX_CPU_SHARE, "{:.2%}"),
    ]


@click.command()
@click.option("--work", default="200x100x128", show_default=True, help="STREAMSxTOKENS_PER_SxTOKENS.")
@click.option("--requests", type=click.IntRange(1), default=6000, show_default=True, help="Requests of each run.")
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--every", "every_s", type=float, default=5.0, show_default=True, help="Seconds between scrapes.")
def main(work: str, requests: int, pairs: int, every_s: float) -> None:
    """Run pairs, one of each scraped, and print what that changed; exit code 1 where a requirement is not met."""
    parsed, cores = Work.parse(work), Cores.of_this_machine()
    adopt_orphans()
    os.sched_setaffinity(0, {cores.engine})  # nothing else runs on the client's core
    with tempfile.TemporaryDirectory(prefix="llmload-scraping-") as folder:
        bench = Bench(cores=cores, folder=Path(folder), repeat=pairs, keep=False, say=click.echo)
        done = []
        for number in range(pairs):
            pair = run_pair(number, parsed, requests, every_s, bench)
            done.append(pair)
            itl = "unknown" if pair.itl_ratio is None else f"{pair.itl_ratio - 1:+.2%}"
            true = f"the engine's own {pair.true_itl_ratio - 1:+.2%}"
            click.echo(
                f"pair {number + 1}: {pair.scrapes} scrapes, ITL p99 {itl}, {true}, CPU {pair.cpu_ratio - 1:+.2%}"
            )
    judgements = judge_pairs(done, parsed, every_s, served_scrape_ms())
    Console(highlight=False, width=None if Console().is_terminal else 160).print(requirements_table(judgements))
    sys.exit(not all(judgement.passed for judgement in judgements))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.scraping")
