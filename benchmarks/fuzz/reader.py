"""A reader as the fuzzer sees it: inputs that it takes, and what it must make of any others."""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import msgpack

from benchmarks.tools.mutants import Draw, changed_json, changed_packed, changed_toml, damaged
from llmload.errors import LlmloadError

MOST_LINES: Final = 25
MOST_LINE: Final = 1_000
"""Of what a refusal says, in characters a line, beside the file's name."""


class RefusedError(Exception):
    """An input was refused as it should be, by something else than an `LlmloadError`."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file, or the bytes of an answer: what a reader reads."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Reader:
    """
    A reader: its name, inputs that it takes, and the function that reads one in a scratch folder.

    `read` raises `LlmloadError` or `RefusedError` for an input that is refused; whatever else it raises is a fault.
    `modules` are those whose branches guide the search for inputs; none: only mutants of good inputs are read.
    """

    name: str
    goods: Callable[[Path], Sequence[Input]]
    read: Callable[[Input, Path], object]
    modules: tuple[ModuleType, ...] = ()
    most_bytes: int = 1 << 20


def mutant_of(good: Input, draw: Draw, most_bytes: int) -> Input:
    """Return the input with one thing changed that its form knows, or with damaged bytes."""
    structured = _FORMS.get(Path(good.name).suffix)
    data = structured(good.data, draw) if structured is not None and draw.random() < 0.6 else damaged(good.data, draw)
    return Input(good.name, data[:most_bytes])


ReadsFile = Callable[[Path], object]


def read_file(read: ReadsFile) -> Callable[[Input, Path], None]:
    """Return the function that writes an input as a file and reads it; a refusal must be short and name the file."""

    def checked(given: Input, folder: Path) -> None:
        file = folder / given.name
        file.write_bytes(given.data)
        try:
            read(file)
        except LlmloadError as error:
            check_refusal(str(error), file)
            raise

    return checked


def check_refusal(said: str, file: Path) -> None:
    """Raise AssertionError for a refusal that is long, has control characters, or does not name the file."""
    lines = said.replace(str(file), file.name).split("\n")
    if len(lines) > MOST_LINES or max(map(len, lines)) > MOST_LINE:
        raise AssertionError(f"a refusal of {len(lines)} lines, {max(map(len, lines))} characters: {said[:300]!r}")
    if file.name not in said:
        raise AssertionError(f"a refusal that does not name {file.name}: {said[:300]!r}")
    if odd := {each for each in said if each < " " and each != "\n"}:
        raise AssertionError(f"a refusal with {odd!r}: {said[:300]!r}")


def _json(data: bytes, draw: Draw) -> bytes:
    try:
        content = json.loads(data)
    except ValueError:  # some engines send what is not JSON
        return damaged(data, draw)
    return changed_json(content, draw)[1].encode(errors="surrogatepass")


def _is_object(line: bytes) -> bool:
    return line.startswith(b"{") and line.rstrip().endswith(b"}")


def _toml(data: bytes, draw: Draw) -> bytes:
    return changed_toml(tomllib.loads(data.decode()), draw)[1].encode(errors="surrogatepass")


def _msgpack(data: bytes, draw: Draw) -> bytes:
    return changed_packed(msgpack.loads(data, strict_map_key=False), draw)[1]


def _of_lines(before: bytes) -> Callable[[bytes, Draw], bytes]:
    def change(data: bytes, draw: Draw) -> bytes:
        lines = data.split(b"\n")
        objects = [at for at, line in enumerate(lines) if _is_object(line.removeprefix(before))]
        if not objects:
            return damaged(data, draw)
        for at in draw.sample(objects, min(len(objects), draw.choice((1, 1, 3)))):
            lines[at] = before + _json(lines[at].removeprefix(before), draw)
        return b"\n".join(lines)

    return change


_FORMS: Final = {
    ".json": _json,
    ".jsonl": _of_lines(b""),
    ".sse": _of_lines(b"data: "),
    ".toml": _toml,
    ".msgpack": _msgpack,
}
