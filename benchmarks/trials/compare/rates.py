"""Frequencies of comparison outcomes over many pairs of runs."""

import itertools
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist

from benchmarks.tools.virtual_engine import Load
from benchmarks.tools.virtual_runs import System, write_run
from llmload.compare.comparison import Comparison, Outcome, compare
from llmload.compare.runs import check_comparable, read_run, same_prompts


@dataclass(slots=True)
class Tally:
    """Outcome counts of many comparisons: overall, and by metric."""

    wholes: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, comparison: Comparison) -> None:
        """Count a comparison."""
        self.wholes[comparison.outcome.value] += 1
        for finding in comparison.findings:
            self.metrics.setdefault(finding.metric.name, Counter())[finding.outcome.value] += 1

    def seen(self) -> list[Outcome]:
        """Return the outcomes that occurred, and FAIL."""
        return [outcome for outcome in Outcome if self.wholes[outcome.value] or outcome is Outcome.FAIL]

    def line(self, outcome: Outcome) -> str:
        """Return an outcome's count and share, with its confidence interval."""
        return f"{outcome.value} {self.wholes[outcome.value]} = {self.share(outcome)}"

    def share(self, outcome: Outcome) -> str:
        """Return an outcome's share, with its confidence interval."""
        count, of = self.wholes[outcome.value], sum(self.wholes.values())
        low, high = wilson(count, of)
        return f"{count / of:.1%} ({low:.1%} to {high:.1%})"


def wilson(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a rate, from `count` of `of` (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = count / of, z * z / of
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def strictly(comparison: Comparison) -> Comparison:
    """Return the comparison with thresholds of 0: equal systems that then fail show the interval's error rate."""
    return replace(comparison, findings=tuple(finding.by(0.0) for finding in comparison.findings))


def compare_pairs(
    base: System, candidate: System, load: Load, *, pairs: int, runs: int = 1, first_seed: int = 1
) -> Iterator[Comparison]:
    """Yield the comparison of each pair, from run folders to findings."""
    with tempfile.TemporaryDirectory(prefix="llmload-compare-") as temporary:
        for pair in range(pairs):
            base_runs, cand_runs = (
                [Path(temporary) / f"{name}-{run}" for run in range(runs)] for name in ("base", "cand")
            )
            seeds = itertools.count(first_seed + pair * 2 * runs)
            for system, side in ((base, base_runs), (candidate, cand_runs)):
                for folder in side:
                    write_run(folder, system, load, next(seeds))
            yield compare_folders(base_runs, cand_runs)
            for folder in (*base_runs, *cand_runs):
                shutil.rmtree(folder)


def compare_folders(base: Sequence[Path], candidate: Sequence[Path], allow: Sequence[str] = ()) -> Comparison:
    """Return the comparison of run folders as the command makes it; NotComparableError if they are not comparable."""
    sides = [[read_run(folder) for folder in side] for side in (base, candidate)]
    check_comparable(sides[0], sides[1], allow)
    samples = [[run.sample() for run in side] for side in sides]
    return compare(samples[0], samples[1], paired=same_prompts(sides[0], sides[1]))
