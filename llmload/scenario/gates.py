"""What a run must keep to succeed in a pipeline."""

from typing import Self

from pydantic import Field, model_validator

from llmload.measure.objective import Objective
from llmload.scenario.promise import Promise
from llmload.scenario.table import Table


class Gates(Table):
    """Promises about the run's figures; one that is missed makes its exit code 1."""

    objectives: list[Promise] = Field(default_factory=list)
    """Such as `ttft_s p95 < 0.5`, `goodput_share >= 0.95`, `error_share <= 0.01`."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for place, text in enumerate(self.objectives):
            if text in self.objectives[:place]:
                raise ValueError(f"{text} is promised twice")
        return self

    def parsed(self) -> tuple[Objective, ...]:
        """Return the promises."""
        return tuple(map(Objective.parse, self.objectives))
