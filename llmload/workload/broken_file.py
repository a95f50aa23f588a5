"""Why a file of prompts could not be read: the first line that is to blame. Asked only after reading failed."""

import json
from pathlib import Path

_PARQUET_MAGIC = b"PAR1"


def what_is_wrong(files: tuple[Path, ...]) -> str:
    """Return one line that names the first file that cannot be read, the line in it, and what is wrong there."""
    for file in files:
        reason = _parquet_reason(file) if file.suffix == ".parquet" else _json_reason(file)
        if reason is not None:
            return f"{file}: {reason}"
    return f"{files[0]}: cannot be read as rows of one form: the values of a key differ in type from row to row"


def _parquet_reason(file: Path) -> str | None:
    with file.open("rb") as stream:
        return None if stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC else "is not a Parquet file"


def _json_reason(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return f"is not UTF-8: byte {error.start} cannot be decoded"
    if text.lstrip().startswith("["):
        return _array_reason(text)
    return _lines_reason(text)


def _array_reason(text: str) -> str | None:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        return f"line {error.lineno} is not JSON: {error.msg}"
    if not rows:
        return "has no rows"
    row = next((row for row, value in enumerate(rows) if not isinstance(value, dict)), None)
    return None if row is None else f"row {row} (the first is 0) is not an object"


def _lines_reason(text: str) -> str | None:
    # Not splitlines(): JSON text may hold other line separators than these.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        return "has no rows"
    for number, line in lines:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            return f"line {number} is not JSON: {error.msg}"
        if not isinstance(value, dict):
            return f"line {number} is not an object"
    return None
