"""
By how much a figure may be off, by the effects and by the number of its values, and how a figure is marked.

A limit is one of the effect, so the same cause degrades one run and not another: reads that two chunks share move a
p99 that lies among them, and not a median; stamps that are 1 ms late are nothing to a TTFT of 2 s.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from llmload.metrics.effects import DEGRADED_PART, EFFECTS, Effect, Size
from llmload.metrics.objective import LABELS, Objective
from llmload.metrics.requests import QUANTILES, REQUEST_DISTRIBUTIONS
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import ALL, Doubt, Level, Reason, Verdict, check_in_words
from llmload.stats.histogram import Histogram
from llmload.stats.intervals import MIN_BEYOND, quantile_ranks, values_needed
from llmload.units import UNKNOWN, milliseconds, significant


def effects(
    totals: RunTotals, relied_on: Collection[str] | None, gates: Iterable[Objective] = ()
) -> Iterator[tuple[Sequence[Doubt], Reason | None]]:
    """
    Yield the figures that each effect may move by more than `DEGRADED_PART`.

    With a reason where they are relied on, or where a gate's limit lies between the bounds: it may come out otherwise.
    """
    for effect in EFFECTS:
        found = [size for size in effect.sizes(totals) if size.part > DEGRADED_PART and not _is_chance(size, totals)]
        relied = [
            size
            for size in found
            if is_relied_on((size.name,), relied_on)
            or any(gate.name == size.name and size.low <= gate.limit <= size.high for gate in gates)
        ]
        yield [_doubt(effect, size) for size in found], _reason(effect, relied, found) if relied else None


def _is_chance(size: Size, totals: RunTotals) -> bool:
    """Whether a percentile of as many values moves as far from one run to the next anyway."""
    if size.statistic not in QUANTILES:
        return False
    low, high = quantile_interval(totals.distributions[size.figure], QUANTILES[size.statistic])
    return (low is None or low <= size.low) and (high is None or size.high <= high)


def quantile_interval(values: Histogram, quantile: float) -> tuple[float | None, float | None]:
    """Return between which values a percentile lies with 95 % confidence, by how many there are; None: no bound."""
    low, high = (
        None if rank is None else values.quantile(rank / values.count)
        for rank in quantile_ranks(quantile, values.count)
    )
    return low, high


def _doubt(effect: Effect, size: Size) -> Doubt:
    return Doubt(
        figure=size.figure,
        statistic=size.statistic,
        check=effect.name,
        text=effect.why,
        low=size.low,
        high=size.high,
    )


def _reason(effect: Effect, relied: Sequence[Size], found: Sequence[Size]) -> Reason:
    """Return the reason with the figure that the effect moves most, of those that are relied on."""
    worst = max(relied, key=lambda size: size.part)
    return Reason(
        check=effect.name,
        level=Level.DEGRADED,
        figure=worst.part,
        limit=DEGRADED_PART,
        text=f"{check_in_words(effect.name)}: {_size_text(worst)}: {effect.why}: {effect.remedy}",
        figures=tuple(size.name for size in found),
    )


def _size_text(size: Size) -> str:
    """Return between what the true figure lies, in words: `ITL p99 between 9.8 and 10.4 ms`."""
    return f"{name_of(size.figure, size.statistic)} {between(size.figure, size.low, size.high)}"


# Percentiles of few values.

FEW_VALUES: Final = "few_values"
"""The check that marks a percentile with fewer than `MIN_BEYOND` values beyond it."""


def few_values(totals: RunTotals) -> Iterator[Doubt]:
    """Yield each percentile of too few values, with the interval by their number."""
    for figure in REQUEST_DISTRIBUTIONS:
        values = totals.distributions[figure]
        count = values.count
        for name, quantile in QUANTILES.items() if totals.measures(figure) else ():
            if count >= values_needed(quantile):
                continue
            low, high = quantile_interval(values, quantile)
            yield Doubt(
                figure=figure,
                statistic=name,
                check=FEW_VALUES,
                text=f"{name} of {count} values needs {values_needed(quantile):,}: {MIN_BEYOND} beyond it",
                low=low,
                high=high,
            )


def doubts_of(totals: RunTotals) -> tuple[Doubt, ...]:
    """Return the doubts that totals alone show, such as a stage's: sized effects, percentiles of few values."""
    return (*(doubt for sized, _ in effects(totals, ()) for doubt in sized), *few_values(totals))


def undecided_gates(gates: Iterable[Objective], doubts: Collection[Doubt]) -> Iterator[Reason]:
    """Yield a reason for each gate on a percentile of so few values that its limit may lie on either side."""
    for gate in gates:
        doubt = next(
            (each for each in doubts if each.check == FEW_VALUES and each.is_of(gate.metric, gate.statistic)), None
        )
        if doubt is None or gate.quantile is None:
            continue
        below = doubt.low is None or gate.limit >= doubt.low
        above = doubt.high is None or gate.limit <= doubt.high
        if below and above:
            needed = values_needed(gate.quantile)
            asked = f"--requests {needed}, or a longer run" if gate.metric != "itl_s" else "a longer run"
            yield Reason(
                check=FEW_VALUES,
                level=Level.DEGRADED,
                text=f"{check_in_words(FEW_VALUES)}: the gate {gate} may come out otherwise: {doubt.text}: {asked}",
                figures=(gate.name,),
            )


# What a doubtful figure looks like, wherever it is shown.

MARK: Final = "~"


def is_relied_on(figures: Iterable[str], relied_on: Collection[str] | None) -> bool:
    """Return whether one of the figures (`all`, `itl_s`, `itl_s p99`) is relied on; None relies on every figure."""
    return any(
        relied_on is None or figure in ALL or any(_same(figure, each) for each in relied_on) for figure in figures
    )


def _same(one: str, other: str) -> bool:
    figure, statistic = one.partition(" ")[::2]
    other_figure, other_statistic = other.partition(" ")[::2]
    return figure == other_figure and (not statistic or not other_statistic or statistic == other_statistic)


def name_of(figure: str, statistic: str | None = None) -> str:
    """Return what texts call a figure: `TTFT p95`."""
    return " ".join((LABELS.get(figure, figure), *([statistic] if statistic else [])))


def between(figure: str, low: float | None, high: float | None) -> str:
    """Return where a true figure lies, in words; latencies in ms."""

    def text(value: float) -> str:
        return milliseconds(value) if figure.endswith("_s") and not figure.endswith("per_s") else significant(value)

    unit = " ms" if figure.endswith("_s") and not figure.endswith("per_s") else ""
    if low is not None and high is not None:
        return f"between {text(low)} and {text(high)}{unit}"
    return (
        f"at least {text(low)}{unit}" if low is not None else f"at most {text(high)}{unit}" if high is not None else ""
    )


def marked(text: str, doubts: Iterable[Doubt], figure: str, statistic: str | None = None) -> str:
    """Return a figure's text, with `MARK` behind it where the figure is in doubt."""
    doubtful = text != UNKNOWN and any(doubt.is_of(figure, statistic) for doubt in doubts)
    return f"{text}{MARK}" if doubtful else text


def marks(reason: Reason) -> str:
    """Return `MARK` and a space before a reason that doubts some figures; nothing before one of none or of all."""
    return f"{MARK} " if reason.figures and reason.figures != ALL else ""


def doubt_of(doubts: Iterable[Doubt], figure: str, statistic: str | None = None) -> str:
    """Return why a figure is in doubt and where the true one lies, in words; nothing where it is not."""
    found = next((doubt for doubt in doubts if doubt.is_of(figure, statistic)), None)
    if found is None:
        return ""
    size = between(figure, found.low, found.high)
    return f"in doubt{size and ', '}{size}: {found.text}"


def lines_of(verdict: Verdict, shown: Collection[str]) -> list[str]:
    """Return a line with `MARK` for each check that doubts one of the `shown` figures, unless its reason says it."""
    given = {reason.check for reason in verdict.reasons if marks(reason)} - {FEW_VALUES}
    return [f"{MARK} {line}" for line in footnotes((each for each in verdict.doubts if each.check not in given), shown)]


def footnotes(doubts: Iterable[Doubt], shown: Collection[str]) -> list[str]:
    """Return a line for each check that doubts one of the `shown` figures (`ttft_s`, `e2e_s mean`), without `MARK`."""
    by_check: dict[str, list[Doubt]] = {}
    for doubt in doubts:
        if is_relied_on((doubt.name,), shown):
            by_check.setdefault(doubt.check, []).append(doubt)
    return [_footnote(check, each) for check, each in by_check.items()]


def _footnote(check: str, doubts: Sequence[Doubt]) -> str:
    named = ", ".join(dict.fromkeys(name_of(doubt.figure) for doubt in doubts))
    if check == FEW_VALUES:
        few = {doubt.statistic for doubt in doubts}
        needed = (f"{name} needs {values_needed(share):,}" for name, share in QUANTILES.items() if name in few)
        return f"{named}: few values: {', '.join(needed)}"
    if all(doubt.low is None and doubt.high is None for doubt in doubts):
        return f"{named}: {doubts[0].text}"
    sizes = []
    for figure in dict.fromkeys(doubt.figure for doubt in doubts):
        of_figure = [
            f"{each.statistic} {between(figure, each.low, each.high)}" for each in doubts if each.figure == figure
        ]
        sizes.append(f"{name_of(figure)} {', '.join(of_figure)}")
    return f"{', '.join(sizes)}: {doubts[0].text}"
