"""What the tests of prompts share: small data sets, written where each test can see them."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

WriteRows = Callable[[str, Iterable[Any]], Path]

LIMA = Path(os.environ.get("LLMLOAD_LIMA_DIR", Path(__file__).parents[3] / "shared" / "data" / "lima"))
"""The real LIMA: its train.jsonl and test.jsonl."""
collect_ignore = [] if (LIMA / "train.jsonl").is_file() else ["test_lima.py"]  # its licence keeps it out of the project


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Return a writer of JSON Lines files below the test's folder; a row that is a string is written as it is."""

    def write(name: str, rows: Iterable[Any]) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    return write


def lima_rows(count: int, turns: int = 2) -> list[dict[str, Any]]:
    """Return rows in LIMA's form whose every turn says which row and turn it is."""
    return [
        {"conversations": [f"row {row} turn {turn}" for turn in range(turns)], "source": "x"} for row in range(count)
    ]


@pytest.fixture
def ten_rows(write_rows: WriteRows) -> Path:
    """Return a file of ten answered questions."""
    return write_rows("ten.jsonl", lima_rows(10))


@pytest.fixture
def lima_dir() -> Path:
    """Return the folder of the real LIMA."""
    return LIMA
