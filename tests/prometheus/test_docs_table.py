"""docs/monitoring.md has the exported series with their help texts."""

from pathlib import Path

from llmload.prometheus.families import table

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_the_table_on_the_page_is_up_to_date() -> None:
    inside = PAGE.read_text().partition("llmload.prometheus.families -->\n")[2].partition("\n<!-- end")[0]

    assert inside == table()
