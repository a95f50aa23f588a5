"""Figures and Markdown tables are written in one form everywhere."""

import pytest

from llmload.units import (
    UNKNOWN,
    amount,
    bold,
    code,
    escaped,
    markdown_table,
    milliseconds,
    number,
    percent,
    significant,
)


@pytest.mark.parametrize(
    ("plain", "markdown"),
    [
        ("a | b", r"a \| b"),
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
        ("TTFT p95 < 0.5, TPOT >= 3", "TTFT p95 < 0.5, TPOT >= 3"),
        ("_run_ my_run", r"\_run\_ my_run"),
        ("[link](http://x) *b* `c`", r"\[link\](http://x) \*b\* \`c\`"),
        ("two\nlines\r\n", "two lines"),
        ("C:\\|", r"C:\\\|"),
    ],
)
def test_plain_text_never_becomes_formatting(plain: str, markdown: str) -> None:
    assert escaped(plain) == markdown
    assert escaped(escaped(plain)) == markdown


def test_a_cell_can_neither_end_its_row_nor_its_column() -> None:
    table = markdown_table(["name", "n"], [["a|b\n", "1"], [bold("x|y"), "2"], [code("p|`q`"), "3"]], right={1})

    assert table.splitlines() == [
        "| name | n |",
        "| --- | ---: |",
        r"| a\|b | 1 |",
        r"| **x\|y** | 2 |",
        r"| `p\|'q'` | 3 |",
    ]


def test_a_padded_table_is_aligned_in_its_source() -> None:
    rows = [["long name", "1"], ["b", "1,234"]]

    assert markdown_table(["name", "n"], rows, right={1}, padded=True).splitlines() == [
        "| name      |     n |",
        "|-----------|------:|",
        "| long name |     1 |",
        "| b         | 1,234 |",
    ]
    assert markdown_table(["name", "n"], rows, padded=True, outer=False).splitlines() == [
        "name      | n",
        "--------- | -----",
        "long name | 1",
        "b         | 1,234",
    ]


def test_an_unknown_figure_is_never_zero() -> None:
    assert {of(None) for of in (number, amount, significant, milliseconds, percent)} == {UNKNOWN}


def test_figures_have_the_digits_that_count() -> None:
    assert [milliseconds(value) for value in (0.0012345, 0.1234, 1.5)] == ["1.23", "123.4", "1,500"]
    assert [number(1234.567), number(2, 0), number(0.5, 1, " GB")] == ["1,234.57", "2", "0.5 GB"]
    assert [amount(3.0), amount(2.345, " W"), amount(1234.5)] == ["3", "2.35 W", "1,234"]
    assert [significant(0.012345), significant(12345)] == ["0.01235", "12,345"]
    assert [percent(0.1234), percent(0.1234, 2)] == ["12.3%", "12.34%"]
