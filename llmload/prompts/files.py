"""
Files that others wrote, row by row: JSON Lines, an array of objects, CSV; and why one cannot be read.

Nothing is inferred: a value is what the file says, in each row for itself. A row is in memory only while it is read.
"""

import codecs
import csv
import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import orjson

from llmload.errors import MAX_SHOWN_CHARS, DataError, shown
from llmload.portable import HALF_OF_A_PAIR

MAX_ROW_BYTES: Final = 64 << 20
"""A longer line, or row of an array, is refused."""
_BLOCK_BYTES: Final = 1 << 20
_QUIET_S: Final = 2.0
"""A file that takes longer to read is heard of this often."""
_SIGNATURES: Final = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
}


class Row(NamedTuple):
    """A row of a file, and its place there."""

    file: str
    number: int
    """From 0; blank lines do not count."""
    line: int | None
    """From 1; None in a file without lines."""
    value: dict[str, Any]
    mended: bool = False
    """Whether half of a surrogate pair became U+FFFD."""

    @property
    def place(self) -> str:
        """Return file, row and line as they are shown."""
        line = "" if self.line is None else f", line {self.line}"
        return f"{self.file}: row {self.number} (the first is 0){line}"


@contextmanager
def opened(file: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a regular file; DataError, beginning with `name`, where it is none or cannot be read."""
    try:
        if not file.is_file():
            raise DataError(f"{name}: {'is no regular file' if file.exists() else 'no such file'}")
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from None


def refuse_other_than_utf8(head: bytes, name: str) -> None:
    """Raise DataError where a text's first bytes are those of UTF-16, of a compressed file or of another format."""
    form = next((form for signature, form in _SIGNATURES.items() if head.startswith(signature)), None)
    if form is None and b"\0" in head[:2]:
        form = "UTF-16"
    if form is None:
        return
    if form.startswith("UTF"):
        raise DataError(f"{name}: is {form}: convert it to UTF-8 (iconv -f {form} -t UTF-8)")
    if form in {"Parquet", "Arrow"}:
        raise DataError(f"{name}: is {form}, which its ending does not say: rename it to .{form.lower()}")
    raise DataError(f"{name}: is compressed with {form}: unpack it first")


def read_json(file: Path, name: str, first: int = 0) -> Iterator[Row]:
    """
    Yield the objects of JSON Lines, or of an array, numbered from `first`; the file's beginning says which it is.

    A byte order mark and blank lines are passed over. DataError names line and fault.
    """
    with opened(file, name) as stream:
        skip_mark(stream, name)
        start = stream.tell()
        while (byte := stream.read(1)).isspace():
            continue
        stream.seek(start)
        if byte == b"[":
            rows: Iterable[Row] = _array_rows(stream, name, first)
        else:
            rows = _line_rows(stream, name, first)
        yield from rows


def skip_mark(stream: IO[bytes], name: str) -> None:
    """Pass over a byte order mark; DataError where the file is empty or no UTF-8."""
    head = stream.read(8)
    if not head:
        raise DataError(f"{name}: is empty")
    refuse_other_than_utf8(head, name)
    stream.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)


def lines_of(stream: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each line; DataError for one that is too long."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise DataError(f"{name}: line {number} is longer than {MAX_ROW_BYTES >> 20} MiB")
        yield number, line


def decoded(line: bytes, number: int, name: str) -> str:
    """Return a line's text; DataError where it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(name, number, error.start + 1, line[error.start])) from None


def _not_utf8(name: str, line: int, column: int, byte: int) -> str:
    return (
        f"{name}: line {line} is not UTF-8 (byte {column} of it is 0x{byte:02x}): convert the file to UTF-8, "
        "such as with iconv -f LATIN1 -t UTF-8"
    )


def _line_rows(stream: IO[bytes], name: str, first: int) -> Iterator[Row]:
    row = first
    for number, line in lines_of(stream, name):
        if line.isspace():
            continue
        mended = False
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value, mended = _slowly(line, number, name)
        if not isinstance(value, dict):
            raise DataError(f"{name}: line {number} is not an object: {shown(value)}")
        yield Row(name, row, number, value, mended)
        row += 1


def _slowly(line: bytes, number: int, name: str) -> tuple[Any, bool]:
    """Return what orjson refuses but Python writes: lone surrogates, as U+FFFD, NaN; DataError for what is not JSON."""
    text = decoded(line, number, name)
    try:
        return _mended(json.loads(text))
    except json.JSONDecodeError as error:
        hint = "; a row is one line, or an element of an array" if text.strip() in {"{", "[", "}", "]"} else ""
        raise DataError(
            f"{name}: line {number} is not JSON: {error.msg} at column {error.colno}: {shown(text.strip())}{hint}"
        ) from None
    except (RecursionError, ValueError):
        raise DataError(_too_deep(name, number)) from None


def _too_deep(name: str, line: int) -> str:
    return f"{name}: line {line} is nested too deeply, or has a number of thousands of digits"


def _mended(value: Any) -> tuple[Any, bool]:
    """Return the value with U+FFFD instead of halves of surrogate pairs, which no UTF-8 can carry."""
    if isinstance(value, str):
        text = HALF_OF_A_PAIR.sub("\ufffd", value)
        return text, text != value
    if isinstance(value, list):
        pairs = [_mended(each) for each in value]
        return [each for each, _ in pairs], any(mended for _, mended in pairs)
    if isinstance(value, dict):
        parts = {key: _mended(each) for key, each in value.items()}
        return {key: each for key, (each, _) in parts.items()}, any(mended for _, mended in parts.values())
    return value, False


class _Array:
    """An array's text, read block by block."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0
        self._at_end = False
        self._lines_before, self._counted = 0, 0

    @property
    def line(self) -> int:
        """Return the line that is read now."""
        self._lines_before += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._lines_before + 1

    def next_character(self) -> str:
        """Pass over white space and return the character after it, which stays; empty at the end."""
        while True:
            size = len(self._text)
            while self._at < size and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < size:
                return self._text[self._at]
            if not self._read_more(_BLOCK_BYTES):
                return ""

    def skip(self) -> None:
        """Pass over a character."""
        self._at += 1

    def element(self) -> Any:
        """Return the value that begins here; DataError where there is none, or it is too long."""
        wanted = _BLOCK_BYTES
        while True:
            try:
                value, self._at = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos + _LONGEST_TOKEN > len(self._text)
                if is_cut and self._read_more(wanted):
                    wanted *= 2
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                near = shown(self._text[error.pos : error.pos + MAX_SHOWN_CHARS])
                raise DataError(f"{self._name}: line {line} is not JSON: {error.msg}: {near}") from None
            except (RecursionError, ValueError):
                raise DataError(_too_deep(self._name, self.line)) from None
            else:
                return value

    def _read_more(self, size: int) -> bool:
        if self._at_end:
            return False
        line = self.line
        if len(self._text) - self._at > MAX_ROW_BYTES:
            raise DataError(
                f"{self._name}: the row that begins in line {line} is longer than {MAX_ROW_BYTES >> 20} MiB"
            )
        block = self._stream.read(size)
        self._at_end = not block
        try:
            more = self._decoder.decode(block, final=self._at_end)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            line += self._text.count("\n", self._at) + before.count(b"\n")
            column = len(before) - before.rfind(b"\n")
            raise DataError(_not_utf8(self._name, line, column, error.object[error.start])) from None
        self._text, self._at, self._counted = self._text[self._at :] + more, 0, 0
        return not self._at_end


_DECODER: Final = json.JSONDecoder()
_LONGEST_TOKEN: Final = 16
"""A fault this near to what has been read may be a token whose end has not been read yet, such as `\\ud83d`."""


def _array_rows(stream: IO[bytes], name: str, first: int) -> Iterator[Row]:
    array = _Array(stream, name)
    array.next_character()
    array.skip()
    row, after_comma = first, False
    while (character := array.next_character()) != "]" or after_comma:
        line = array.line
        value, mended = _mended_element(array, name)
        if not isinstance(value, dict):
            raise DataError(f"{name}: row {row} (the first is 0) is not an object: {shown(value)}, line {line}")
        yield Row(name, row, line, value, mended)
        row += 1
        character = array.next_character()
        after_comma = character == ","
        if after_comma:
            array.skip()
        elif character != "]":
            what = f"{shown(character)} where a comma or ] is expected" if character else "its array does not end"
            raise DataError(f"{name}: line {array.line} is not JSON: {what}")
    array.skip()
    if rest := array.next_character():
        raise DataError(f"{name}: line {array.line} is not JSON: {shown(rest)} after the array's end")


def _mended_element(array: _Array, name: str) -> tuple[Any, bool]:
    value = array.element()
    try:
        orjson.dumps(value)
    except (TypeError, RecursionError):
        try:
            return _mended(value)
        except RecursionError:
            raise DataError(_too_deep(name, array.line)) from None
    return value, False


def read_csv(file: Path, name: str) -> Iterator[Row]:
    """
    Yield the rows of a CSV file with a header; blank lines do not count, and a value that is not there is None.

    A row's line is its last. DataError names line and fault.
    """
    with opened(file, name) as stream:
        skip_mark(stream, name)
        reader = csv.reader((decoded(line, number, name) for number, line in lines_of(stream, name)), strict=True)
        header: list[str] | None = None
        row = 0
        try:
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if header is None:
                    header = fields
                    continue
                padding = [None] * (len(header) - len(fields))
                yield Row(name, row, reader.line_num, dict(zip(header, [*fields, *padding], strict=False)))
                row += 1
        except csv.Error as error:
            raise DataError(f"{name}: line {reader.line_num} is not CSV: {error}") from None


def heard(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows, and say on standard error how many there were, every two seconds."""
    said_s = time.monotonic()
    for count, row in enumerate(rows, start=1):
        if not count % 1024 and time.monotonic() - said_s > _QUIET_S:
            sys.stderr.write(f"llmload: reading {row.file}: {count:,} rows so far\n")
            sys.stderr.flush()
            said_s = time.monotonic()
        yield row
