"""When a step of the search is decided, and how: an ordered table of rules over what its answers show so far."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from llmload.capacity.evidence import Decision, ObjectiveEvidence, StepEvidence
from llmload.metrics.objective import Objective
from llmload.scenario.capacity import Capacity

HOPELESS_CONFIDENCE: Final = 0.999
"""
Between two evaluations a step ends only if it fails with this confidence.

A stopping rule as strict as this hardly adds to the error of the evaluations (Haybittle, Br J Radiol 44, 1971; Peto et
al., Br J Cancer 34, 1976).
"""
MIN_ANSWERS: Final = 20
"""A step needs this many answers before it is hopeless, or before it passes a quick check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """How long a step's window may take, in seconds and answers, and the confidence of its verdict."""

    min_s: float
    max_s: float
    min_requests: int
    confidence: float = 0.95
    rate_per_s: float | None = None
    """Arrivals of an open loop, whose queue must not grow; None in a closed loop, where it cannot."""

    @classmethod
    def of(cls, load: Capacity, value: float) -> Self:
        """Return the limits of the load's step with this many users or requests/s."""
        return cls(
            min_s=load.step_min_s,
            max_s=load.step_max_s,
            min_requests=load.step_min_requests,
            confidence=load.confidence,
            rate_per_s=None if load.has_users else value,
        )

    @property
    def evaluations_s(self) -> tuple[float, ...]:
        """When the step is evaluated: after `min_s`, each time that this has doubled, and at `max_s`."""
        count = max(1, math.ceil(math.log2(self.max_s / self.min_s) - 1e-9) + 1)
        return (*(self.min_s * 2**index for index in range(count - 1)), self.max_s)

    @property
    def evaluation_confidence(self) -> float:
        """The confidence of one evaluation, so that all together err at most as often as agreed (Bonferroni)."""
        return 1 - (1 - self.confidence) / len(self.evaluations_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVerdict:
    """What was decided about a step, why, and each objective's evidence."""

    decision: Decision
    reason: str
    objectives: tuple[ObjectiveEvidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a rule looks at: the evidence, the limits, and what this moment is good for."""

    evidence: StepEvidence
    limits: StepLimits
    is_evaluation: bool
    """Whether one of `evaluations_s` has come."""
    quick_check: bool
    """Whether a step that seems to pass may end without a significant result."""

    def verdict(self, decision: Decision, reason: str, confidence: float | None = None) -> StepVerdict:
        """Return the verdict, with the objectives' evidence at a confidence, by default the limits'."""
        return StepVerdict(
            decision=decision,
            reason=reason,
            objectives=self.evidence.of_objectives(confidence or self.limits.confidence),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One way for a step to be decided: when it is tried, what it decides (None: nothing), and why it exists."""

    name: str
    applies: Callable[[Situation], bool]
    decide: Callable[[Situation], StepVerdict | None]
    why: str


def _dropped_arrivals(step: Situation) -> StepVerdict:
    dropped = step.evidence.now.dropped
    reason = f"{dropped} arrivals were dropped: as many as max_in_flight were in flight"
    return step.verdict(Decision.FAILS, reason)


def _fails(step: Situation, confidence: float) -> StepVerdict | None:
    growth = step.evidence.growth(confidence)
    if growth is not None:
        reason = f"the queue grows by {growth:.3g} requests/s: less is answered than arrives"
        return step.verdict(Decision.FAILS, reason, confidence)
    for index in range(len(step.evidence.objectives)):
        if step.evidence.decision(index, confidence) is Decision.FAILS:
            return step.verdict(Decision.FAILS, step.evidence.of_objectives(confidence)[index].text, confidence)
    return None


def _passes(step: Situation) -> StepVerdict | None:
    confidence, evidence = step.limits.evaluation_confidence, step.evidence
    decisions = (evidence.decision(index, confidence) for index in range(len(evidence.objectives)))
    enough = evidence.now.ended >= step.limits.min_requests
    if not (enough and evidence.steady and all(each is Decision.PASSES for each in decisions)):
        return None
    return step.verdict(Decision.PASSES, "every objective is met", confidence)


def _seems_to_pass(step: Situation) -> StepVerdict | None:
    verdict = step.verdict(Decision.SEEMS_TO_PASS, "every objective seems to be met")
    return verdict if step.evidence.steady and all(each.decision.passed for each in verdict.objectives) else None


def _by_figures(step: Situation) -> StepVerdict:
    evidence, results = step.evidence, step.evidence.of_objectives(step.limits.confidence)
    if not evidence.now.ended:
        return step.verdict(Decision.FAILS, "no answer came in time")
    failing = next((each for each in results if not each.decision.passed), None)
    if failing is not None:
        return step.verdict(Decision.SEEMS_TO_FAIL, f"undecided: {failing.text}")
    undecided = next((each for each in results if not each.decision.significant), None)
    if undecided is not None:
        return step.verdict(Decision.SEEMS_TO_PASS, f"undecided: {undecided.text}")
    if not evidence.steady:
        return step.verdict(Decision.SEEMS_TO_PASS, "every objective is met, but the step was not steady")
    enough = evidence.now.ended >= step.limits.min_requests
    return step.verdict(Decision.PASSES if enough else Decision.SEEMS_TO_PASS, "every objective is met")


RULES: Final = (
    Rule(
        name="dropped arrivals",
        applies=lambda step: step.evidence.now.dropped > 0,
        decide=_dropped_arrivals,
        why="a load that was not sent cannot pass",
    ),
    Rule(
        name="hopeless",
        applies=lambda step: step.evidence.now.at_s >= step.limits.min_s / 2 and _enough_answers(step),
        decide=lambda step: _fails(step, HOPELESS_CONFIDENCE),
        why="a step far beyond the capacity need not fill its window",
    ),
    Rule(
        name="fails",
        applies=lambda step: step.is_evaluation,
        decide=lambda step: _fails(step, step.limits.evaluation_confidence),
        why="an interval on the wrong side of its limit decides",
    ),
    Rule(
        name="passes",
        applies=lambda step: step.is_evaluation,
        decide=_passes,
        why="all intervals on the right side of their limits decide, if the step is steady and long enough",
    ),
    Rule(
        name="quick check",
        applies=lambda step: step.quick_check and step.evidence.now.at_s >= step.limits.min_s and _enough_answers(step),
        decide=_seems_to_pass,
        why="while no load has failed the load is to grow anyway; the result is confirmed later",
    ),
    Rule(
        name="time is up",
        applies=lambda step: step.evidence.now.at_s >= step.limits.max_s,
        decide=_by_figures,
        why="after step_max_s the figures decide, whatever their intervals leave open",
    ),
)
"""In the order in which they are tried; the first that decides ends the step."""


def _enough_answers(step: Situation) -> bool:
    return step.evidence.now.ended >= MIN_ANSWERS


class StepJudge:
    """Decides one step of a search by `RULES`; `evaluate` is called after each sample."""

    def __init__(self, objectives: Sequence[Objective], limits: StepLimits) -> None:
        self.limits = limits
        self.evidence = StepEvidence(objectives, limits.rate_per_s)
        self._evaluations = 0

    def evaluate(self, *, confirm: bool) -> StepVerdict | None:
        """Return the verdict once a rule decides; with `confirm` a quick check is not enough."""
        if len(self.evidence.samples) < 2:
            return None
        situation = Situation(
            evidence=self.evidence,
            limits=self.limits,
            is_evaluation=self._evaluation_is_due(),
            quick_check=not confirm,
        )
        verdicts = (rule.decide(situation) for rule in RULES if rule.applies(situation))
        return next((verdict for verdict in verdicts if verdict is not None), None)

    def _evaluation_is_due(self) -> bool:
        passed = sum(self.evidence.now.at_s >= each for each in self.limits.evaluations_s)
        due, self._evaluations = passed > self._evaluations, max(passed, self._evaluations)
        return due
