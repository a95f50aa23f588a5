"""A promise as a scenario writes it."""

from typing import Annotated

from pydantic import AfterValidator

from llmload.measure.objective import Objective


def _as_written(text: str) -> str:
    return str(Objective.parse(text))


Promise = Annotated[str, AfterValidator(_as_written)]
"""A line that `Objective.parse` understands, such as `ttft_s p95 < 0.5`."""
