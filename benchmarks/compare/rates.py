"""How often a comparison says what, over many pairs of runs."""

import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist

from benchmarks.compare.folders import System, write_run
from benchmarks.compare.virtual_engine import Load
from llmload.measure.comparison import METRICS, Comparison, Outcome, compare
from llmload.report.compared import check_comparable, read_run, same_prompts

STRICT = {metric.name: 0.0 for metric in METRICS}
"""Thresholds that accept no worsening at all: what fails by them by chance is the interval's own error."""


@dataclass(slots=True)
class Tally:
    """Outcomes of many comparisons: of each whole, and of each metric."""

    wholes: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, comparison: Comparison) -> None:
        """Count a comparison."""
        self.wholes[comparison.outcome.value] += 1
        for finding in comparison.findings:
            self.metrics.setdefault(finding.metric.name, Counter())[finding.outcome.value] += 1

    def seen(self) -> list[Outcome]:
        """Return the outcomes that came."""
        return [outcome for outcome in Outcome if self.wholes[outcome.value]]

    def line(self, outcome: Outcome) -> str:
        """Return how often an outcome came, with the interval that its true rate lies in."""
        return f"{outcome.value} {self.wholes[outcome.value]} = {self.share(outcome)}"

    def share(self, outcome: Outcome) -> str:
        """Return an outcome's share, with the interval that its true rate lies in."""
        count, of = self.wholes[outcome.value], sum(self.wholes.values())
        low, high = wilson(count, of)
        return f"{count / of:.1%} ({low:.1%} to {high:.1%})"


def wilson(count: int, of: int, sure: float = 0.95) -> tuple[float, float]:
    """Return the interval of a true rate, of which `count` of `of` were seen (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + sure) / 2)
    share, weight = count / of, z * z / of
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / of + weight / (4 * of))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def compare_pairs(
    base: System,
    cand: System,
    load: Load,
    *,
    pairs: int,
    runs: int = 1,
    first_seed: int = 1,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[dict[str, Comparison]]:
    """Yield the comparison of each pair under each named set of thresholds, from run folders to findings."""
    named = thresholds or {"default": {}}
    with tempfile.TemporaryDirectory(prefix="llmload-compare-") as place:
        for pair in range(pairs):
            seed = first_seed + pair * 2 * runs
            sides = [
                [
                    read_run(write_run(Path(place) / f"{seed + 2 * i + side}", system, load, seed + 2 * i + side))
                    for i in range(runs)
                ]
                for side, system in enumerate((base, cand))
            ]
            check_comparable(sides[0], sides[1], ())
            samples = [[run.sample() for run in side] for side in sides]
            paired = same_prompts(sides[0], sides[1])
            yield {
                name: compare(samples[0], samples[1], paired=paired, thresholds=limits)
                for name, limits in named.items()
            }
            for run in [*sides[0], *sides[1]]:
                for file in run.folder.path.iterdir():
                    file.unlink()
