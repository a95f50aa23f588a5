"""What each figure means: README's table and the report page's are generated from it."""

from dataclasses import dataclass
from typing import Final

from llmload.formatting import Markdown, markdown_table
from llmload.metrics.requests import FIELD


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's name, its formula in words, and its unit."""

    name: str
    formula: str
    unit: str


DEFINITIONS: Final = (
    Definition("TTFT", FIELD["ttft_s"].meaning, "s"),
    Definition("ITL", "every gap between neighbouring chunks with text: a distribution over chunks, not tokens", "s"),
    Definition("TPOT", FIELD["tpot_s"].meaning, "s"),
    Definition("e2e latency", "last byte of the answer - start", "s"),
    Definition(
        "output tokens/s of a request",
        "output tokens / e2e latency: full round trip, completion tokens only; the headline is the mean over requests",
        "tok/s",
    ),
    Definition("system output tokens/s", "tokens that arrived inside the window / window", "tok/s"),
    Definition("requests/min", "answers that ended inside the window / window x 60", "1/min"),
    Definition("goodput", "the same, of answers that met every limit of `[slo]`", "1/min"),
)


def markdown() -> str:
    """Return the table as the README has it."""
    rows = [[Markdown(each.name), Markdown(each.formula), Markdown(each.unit)] for each in DEFINITIONS]
    return markdown_table(["name", "formula", "unit"], rows) + "\n"
