"""docs/monitoring.md lists the series that are exported, in the words that the exporter uses."""

from pathlib import Path

from llmload.prometheus.families import table

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_the_page_holds_the_table_as_it_would_be_generated_now() -> None:
    inside = PAGE.read_text().partition("llmload.prometheus.families -->\n")[2].partition("\n<!-- end")[0]

    assert inside == table()
