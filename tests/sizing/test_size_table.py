"""The reference document's sizing table, cell by cell and byte by byte."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from llmload.sizing.catalogue import load_model
from llmload.sizing.size_table import PRECISION_BYTES, reference_json, reference_markdown, reference_row, reference_rows

DATA = Path(__file__).parent / "data"
CELLS = json.loads((DATA / "reference_cells.json").read_text(), parse_float=Decimal)
ROWS = {f"{row.model} {row.parameters}": row for row in reference_rows()}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell['model']} {cell['precision']}")
def test_each_cell_of_the_reference_table_is_computed_to_the_cent(cell: dict[str, Decimal]) -> None:
    row = ROWS[str(cell["model"])]

    assert row.memory_gib[str(cell["precision"])] == cell["memory_gib"]
    assert row.backbone_params == cell["backbone"]
    assert row.rotary_cache_elements == cell["rope_buffers"]


def test_the_fixture_has_all_forty_four_cells_of_the_reference_table() -> None:
    assert len(CELLS) == 44
    assert {(f"{row.model} {row.parameters}", p) for row in reference_rows() for p in PRECISION_BYTES} == {
        (cell["model"], cell["precision"]) for cell in CELLS
    }


def test_the_markdown_is_the_documents_byte_for_byte() -> None:
    assert reference_markdown(reference_rows()) + "\n" == (DATA / "reference_table.md").read_text()


def test_a_model_outside_the_reference_table_is_sized_by_the_same_rule() -> None:
    row = reference_row(load_model("Llama-3.1-8B-Instruct"))

    assert row.backbone_params == 7_504_924_672
    assert row.rotary_cache_elements == 2 * 131072 * 128 * 32
    assert row.memory_gib["FP16/BF16"] == Decimal("19.17")
    assert row.parameters == "8.03b"


def test_a_model_without_rotary_positions_has_no_rotary_cache() -> None:
    assert reference_row(load_model("mpt-7b-chat")).rotary_cache_elements == 0
    assert reference_row(load_model("t5-v1_1-xxl")).rotary_cache_elements == 0


def test_a_small_model_is_named_in_millions() -> None:
    assert reference_row(load_model("Qwen2.5-0.5B-Instruct")).parameters == "494m"


def test_whole_numbers_of_gib_are_printed_without_a_point() -> None:
    row = reference_row(load_model("llama-7b"), "M", "s")
    table = reference_markdown([row])

    assert "7.4 GB" in table
    assert "7.40 GB" not in table


def test_the_json_has_the_inputs_of_each_cell() -> None:
    document = json.loads(json.dumps(reference_json(reference_rows())))

    first = document["rows"][0]
    assert document["unit"] == "GiB"
    assert first["memory_gib"] == {"FP32": 58.2, "FP16/BF16": 29.1, "INT8": 14.55, "INT4": 7.28}
    assert first["backbone_params"] + first["rotary_cache_elements"] == 12852106240 + 167772160
