"""
How the files of a run folder are read, from anywhere: regular files only, in pieces of a bounded size.

Every fault is a RunFolderError that names file, line, key and value. Texts keep no character that moves a
terminal's cursor or that XML does not have.
"""

import csv
import gc
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from llmload.errors import RunFolderError, on_one_line, plain
from llmload.metrics.lines import LineFaultError, columns_of, shown
from llmload.metrics.requests import LIST_KEYS, Columns, Line
from llmload.runs.writing import why_of

MAX_JSON_BYTES: Final = 16_000_000
"""Size of a JSON file: a manifest names every prompt that was drawn."""
MAX_LINE_BYTES: Final = 8_000_000
"""Size of a request's line: an answer has at most 262,144 chunks."""
MAX_ROW_BYTES: Final = 100_000
"""Size of a line of a CSV file."""
NEWLINE: Final = b"\n"
MAX_COLUMNS: Final = 1000
BLOCK_BYTES: Final = 4_000_000
"""How much of a request file is read at a time, so that a report's memory does not grow with the run."""
CACHED_BLOCK_BYTES: Final = 250_000
"""The same for what is written at once: lines that stay in the processor's cache are read 30 % faster."""
SMALL_BLOCK_BYTES: Final = 64_000
"""The same while the process also sends."""
MAX_DEPTH: Final = 32
"""Levels of a JSON file."""
MAX_NUMBER: Final = 1e18
"""The greatest number in a file: what is computed from it then stays finite."""
LATEST_UNIX_S: Final = 2.0**32
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def plained(content: Any) -> Any:
    """Return JSON content with all its texts plain."""
    if isinstance(content, str):
        return plain(content)
    if isinstance(content, dict):
        return {plain(key): plained(value) for key, value in content.items()}
    return [plained(value) for value in content] if isinstance(content, list) else content


def named(path: Path) -> str:
    """Return a path for a message: on one line, printable."""
    return on_one_line(str(path))


def is_there(file: Path) -> bool:
    """Return whether there is anything of that name; reading it says if it is not a file."""
    return os.path.lexists(file)


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """Open a regular file to read it; RunFolderError for anything else, without waiting for a pipe's other end."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        why = why_of(error) if isinstance(error, OSError) else error
        raise RunFolderError(f"{named(file)}: cannot be read: {why}") from None
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.closerange(descriptor, descriptor + 1)
        raise RunFolderError(f"{named(file)}: is {_KINDS.get(kind, 'something else')}, not a file")
    with os.fdopen(descriptor, "rb", buffering=0) as content:
        try:
            yield content
        except OSError as error:
            raise RunFolderError(f"{named(file)}: cannot be read: {why_of(error)}") from None


def size_of(file: Path) -> int:
    """Return a regular file's size in bytes; RunFolderError if it is none."""
    with opened(file) as content:
        return os.fstat(content.fileno()).st_size


def read_object(file: Path) -> dict[str, Any]:
    """Return a JSON file's content, its texts plain; RunFolderError where it is none, or too large."""
    with opened(file) as content:
        size = os.fstat(content.fileno()).st_size
        if size > MAX_JSON_BYTES:
            raise RunFolderError(
                f"{named(file)}: has {size:,} bytes, and no file of a run's facts has more than {MAX_JSON_BYTES:,}"
            )
        text = content.read(MAX_JSON_BYTES)
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RunFolderError(f"{named(file)}: is not JSON: {plain(str(error))}") from None
    if not isinstance(found, dict):
        raise RunFolderError(f"{named(file)}: holds no JSON object")
    return {plain(key): _plain_value(file, key, value) for key, value in found.items()}


def _plain_value(file: Path, where: str, value: Any, depth: int = 0) -> Any:
    """Return a JSON value with its texts plain; RunFolderError for a number that nothing can be computed with."""
    if isinstance(value, str):
        return plain(value)
    if depth > MAX_DEPTH:
        raise RunFolderError(f"{named(file)}: {shown(plain(where))[:200]} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {plain(key): _plain_value(file, f"{where}.{key}", inside, depth + 1) for key, inside in value.items()}
    if isinstance(value, list):
        return [_plain_value(file, where, inside, depth + 1) for inside in value]
    if isinstance(value, float) and abs(value) > MAX_NUMBER:
        raise RunFolderError(f"{named(file)}: {shown(plain(where))[:200]} is {value:g}, more than {MAX_NUMBER:g}")
    return value


# Request files


def blocks_of(
    file: Path, progress: Callable[[int], None] = lambda _: None, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the file's whole lines in blocks, each with how many came before; a last one cut short is left out."""
    before, rest = 0, b""
    with opened(file) as content:
        while block := content.read(block_bytes):
            size = len(block)
            block = rest + block if rest else block
            _refuse_blank(file, before, block)
            texts = block.split(b"\n")
            rest = texts.pop()
            if len(rest) > MAX_LINE_BYTES:
                raise RunFolderError(
                    f"{named(file)}: line {before + len(texts) + 1} has more than {MAX_LINE_BYTES:,} bytes, and no "
                    "request's line has as many"
                )
            if texts:
                yield before, texts
            before += len(texts)
            progress(size)


def _refuse_blank(file: Path, before: int, block: bytes) -> None:
    """Raise RunFolderError for a line without anything: millions of them would be as many objects."""
    at = 0 if block.startswith(b"\n") else block.find(b"\n\n") + 1
    if at or block.startswith(b"\n"):
        raise RunFolderError(f"{named(file)}: line {before + block.count(NEWLINE, 0, at) + 1} is blank")


def read_columns(
    files: Sequence[Path],
    progress: Callable[[int], None] = lambda _: None,
    *,
    lists: Sequence[str] = LIST_KEYS,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Columns]:
    """
    Yield the requests of the files as columns, in blocks; `progress` gets the bytes of each.

    Of the lists only those that are named. RunFolderError names file and line of one that is not a request's.
    """
    for file in files:
        for before, texts in blocks_of(file, progress, block_bytes):
            yield _checked(file, before, texts, lists)[1]


def read_lines(file: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[Line]:
    """Yield the lines of a request file as checked JSON objects; otherwise as `read_columns`."""
    for before, texts in blocks_of(file, block_bytes=block_bytes):
        yield from _checked(file, before, texts, LIST_KEYS)[0]


def _checked(file: Path, before: int, texts: Sequence[bytes], lists: Sequence[str]) -> tuple[list[Line], Columns]:
    collects = gc.isenabled()
    gc.disable()  # thousands of objects that all live on: looking for cycles among them took 13 % of an export
    try:
        lines: list[Line] = orjson.loads(b"[" + b",".join(texts) + b"]")
        columns = columns_of(lines, lists)
    except (orjson.JSONDecodeError, LineFaultError):
        lines = []
    finally:
        if collects:
            gc.enable()
    if len(lines) != len(texts):
        raise _fault_in(file, before, texts)
    return lines, columns


def _fault_in(file: Path, before: int, texts: Sequence[bytes]) -> RunFolderError:
    """Return the error of the first line that is not a request's."""
    for number, text in enumerate(texts, start=before + 1):
        try:
            columns_of([orjson.loads(text)])
        except orjson.JSONDecodeError as error:
            return RunFolderError(f"{named(file)}: line {number} is not JSON: {plain(str(error))}")
        except LineFaultError as error:
            return RunFolderError(f"{named(file)}: line {number}{_joined(plain(str(error)))}")
    return RunFolderError(f"{named(file)}: lines {before + 1} to {before + len(texts)} are not a request each")


def _joined(text: str) -> str:
    return f" {text}" if text.startswith(("has ", "holds ")) else f": {text}"


# CSV files: samples of engines and GPUs, the number of users


def read_table(file: Path, columns: Sequence[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """
    Return the names of a CSV file's columns, and its rows with their lines' numbers; a last one cut short is left out.

    RunFolderError where it lacks one of `columns`, or a row is not as long as the header.
    """
    rows = _csv_rows(file)
    header = next(rows, (1, list(columns)))[1]
    for column in columns:
        if column not in header:
            raise RunFolderError(f"{named(file)}: line 1 has no column {column}")
    if len(set(header)) < len(header):
        raise RunFolderError(f"{named(file)}: line 1 has a column twice")
    if len(header) > MAX_COLUMNS:
        raise RunFolderError(f"{named(file)}: line 1 has {len(header)} columns, and no run writes {MAX_COLUMNS}")
    return [plain(name) for name in header], _of_length(file, len(header), rows)


def _of_length(file: Path, length: int, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    for number, row in rows:
        if len(row) != length:
            raise RunFolderError(f"{named(file)}: line {number} has {len(row)} values for {length} columns")
        yield number, row


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each line's number and values: a line is a row, since no value of a run has a line end."""
    for before, texts in blocks_of(file, block_bytes=SMALL_BLOCK_BYTES):
        for number, text in enumerate(texts, start=before + 1):
            if len(text) > MAX_ROW_BYTES:
                raise RunFolderError(f"{named(file)}: line {number} has more than {MAX_ROW_BYTES:,} bytes")
            try:
                yield number, next(csv.reader([text.decode()], strict=True), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise RunFolderError(f"{named(file)}: line {number} is not CSV in UTF-8: {plain(str(error))}") from None


def number_in(
    file: Path, line: int, column: str, text: str, *, least: float = -MAX_NUMBER, most: float = MAX_NUMBER
) -> float:
    """Return a CSV value as a number; RunFolderError where it is none, or out of range."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise RunFolderError(
            f"{named(file)}: line {line}: {shown(column)} is {shown(text)}, not a number from {least:g} to {most:g}"
        )
    return value
