"""What each figure means, in one place: the README's table and the page's are made of it."""

from dataclasses import dataclass
from typing import Final

from llmload.formatting import Markdown, markdown_table


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's name, its formula in words, and its unit."""

    name: str
    formula: str
    unit: str


DEFINITIONS: Final = (
    Definition("TTFT", "first chunk with text (content, reasoning or tool-call arguments) - start", "s"),
    Definition("ITL", "every gap between neighbouring chunks with text: a distribution over chunks, not tokens", "s"),
    Definition("TPOT", "(last - first chunk with text) / (output tokens - 1); unknown below 2 tokens", "s"),
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
