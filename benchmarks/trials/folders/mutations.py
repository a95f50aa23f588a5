"""What can be wrong with a run folder: one change a mutant, drawn from a seed."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.tools.mutants import TEXTS, VALUES, Draw, changed_json
from llmload.runs.folder import REPORT


def mutate(folder: Path, draw: Draw) -> str:
    """Change one thing of the folder and return what was changed."""
    inside = sorted(file for file in folder.rglob("*") if file.name != REPORT)
    folders = [file for file in inside if file.is_dir()]
    if folders and draw.random() < 0.15:
        return _replace_folder(folder, draw.choice(folders), draw)
    files = [file for file in inside if file not in folders]
    of_all = [file for file in files if file.parent == folder]
    file = draw.choice(of_all if of_all and draw.random() < 0.6 else files)
    if draw.random() < 0.3:
        kind = draw.choice(sorted(OF_FILES))
        OF_FILES[kind](file, draw)
        return f"{file.name}: {kind}"
    if file.suffix == ".json":
        return f"{file.name}: {_change_json_file(file, draw)}"
    if file.suffix == ".jsonl":
        return f"{file.name}: {_change_line(file, draw)}"
    if file.suffix == ".toml":
        return f"{file.name}: {_change_toml(file, draw)}"
    kind = draw.choice(sorted(OF_CSV))
    OF_CSV[kind](file, draw)
    return f"{file.name}: {kind}"


ELSEWHERE: Final = "elsewhere"
"""A folder beside the mutant, with a file that must stay."""


def _replace_folder(folder: Path, inner: Path, draw: Draw) -> str:
    kept = folder.parent / ELSEWHERE / "kept" / "file"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.touch()
    kind = draw.choice(("a link", "a file", "a pipe", "dropped"))
    shutil.rmtree(inner)
    if kind == "a link":
        inner.symlink_to(kept.parent.parent)
    elif kind == "a file":
        inner.write_text("{}\n")
    elif kind == "a pipe":
        os.mkfifo(inner)
    return f"{inner.relative_to(folder)}: {kind}"


# TOML


def _change_toml(file: Path, draw: Draw) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    index = draw.randrange(len(lines))
    key, equals, _ = lines[index].partition("=")
    value = draw.choice(VALUES)
    written = json.dumps(value if isinstance(value, str | bool | int | float | list) else "x")
    how = draw.choice(("drop", "twice", "value", "value", "value", "name", "deep"))
    if how == "drop":
        del lines[index]
    elif how == "twice":
        lines.insert(index, lines[index])
    elif how == "deep":
        lines[index] = f"{key} = {'[' * 5000}{']' * 5000}"
    elif how == "name" or not equals:
        lines[index] = f"[{json.dumps(draw.choice(TEXTS))}]" if not equals else f"{written} = 1"
    else:
        lines[index] = f"{key} = {written}"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    return f"line {index + 1}: {how}, {str(value)[:20]!r}"


# JSON


def _change_json_file(file: Path, draw: Draw) -> str:
    what, text = changed_json(json.loads(file.read_text(encoding="utf-8")), draw)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return what


def _change_line(file: Path, draw: Draw) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    index = draw.randrange(len(lines))
    try:
        what, text = changed_json(json.loads(lines[index]), draw)
    except json.JSONDecodeError:  # a last line that is not whole
        what, text = "a line of none", "null"
    if draw.random() < 0.1:
        what, text = (
            "a line that is not an object",
            draw.choice(("null", "[]", "1", '"text"', "", "{}", "{", "}", "[{}]")),
        )
    lines[index] = text
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    return f"line {index + 1}: {what}"


# CSV


def _rows(file: Path) -> list[list[str]]:
    return [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]


def _write_rows(file: Path, rows: list[list[str]]) -> None:
    file.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8", errors="surrogatepass")


_CELLS: Final = (
    *("", "-1", "1e999", "nan", "inf", "abc", "1,2", '"', '"open', "1e308", "-1e308", "9" * 400, "1_0", "0x1", "true"),
    *("\x00", "\ufeff", "http://[", "http://[::1", "//\x00", "http://u:p@h:99999/", *TEXTS),
)


def _cell(file: Path, draw: Draw) -> None:
    rows = _rows(file)
    row = draw.choice(rows[1:] or rows)
    row[draw.randrange(min(len(row), 4))] = draw.choice(_CELLS)
    _write_rows(file, rows)


def _column(how: Callable[[list[str], int, Draw], None]) -> Callable[[Path, Draw], None]:
    def change(file: Path, draw: Draw) -> None:
        rows = _rows(file)
        at = draw.randrange(min(len(rows[0]), 4))
        for row in rows:
            how(row, at, draw)
        _write_rows(file, rows)

    return change


def _header(file: Path, draw: Draw) -> None:
    rows = _rows(file)
    rows[0][draw.randrange(len(rows[0]))] = draw.choice((*rows[0], *_CELLS))
    _write_rows(file, rows)


def _shape(file: Path, draw: Draw) -> None:
    rows = _rows(file)
    row = draw.choice(rows)
    if draw.random() < 0.5:
        row.extend(["1"] * draw.choice((1, 5, 2000)))
    else:
        del row[draw.randrange(len(row)) :]
    _write_rows(file, rows)


def _order(file: Path, draw: Draw) -> None:
    rows = _rows(file)
    rest = rows[1:]
    draw.shuffle(rest)
    _write_rows(file, [rows[0], *rest, *rest[:1]])


OF_CSV: Final[Mapping[str, Callable[[Path, Draw], None]]] = {
    "a cell": _cell,
    "another cell": _cell,
    "a third cell": _cell,
    "a column dropped": _column(lambda row, at, _: row.__delitem__(at)),
    "a column of one value": _column(lambda row, at, _: row.__setitem__(at, row[at] if row[at].islower() else "7")),
    "a header": _header,
    "a row's length": _shape,
    "rows in another order": _order,
}


# Files


def _in_place(make: Callable[[Path], object]) -> Callable[[Path, Draw], None]:
    def change(file: Path, _draw: Draw) -> None:
        file.unlink()
        make(file)

    return change


def _bytes(change: Callable[[bytearray, Draw], bytes | bytearray]) -> Callable[[Path, Draw], None]:
    def write(file: Path, draw: Draw) -> None:
        file.write_bytes(change(bytearray(file.read_bytes()), draw))

    return write


def _flip(content: bytearray, draw: Draw) -> bytearray:
    for _ in range(draw.randint(1, 20) if content else 0):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return content


def _socket(file: Path) -> None:
    place = os.open(file.parent, os.O_PATH)  # a socket's path has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{place}/{file.name}")
    os.close(place)


def _beside(name: str) -> Callable[[Path, Draw], None]:
    def write(file: Path, draw: Draw) -> None:
        beside = file.with_name(name)
        beside.unlink(missing_ok=True)
        draw.choice((Path.mkdir, os.mkfifo, lambda path: path.write_text("{}\n"), lambda path: path.touch()))(beside)

    return write


_BLANK_LINES: Final = 10**7
OF_FILES: Final[Mapping[str, Callable[[Path, Draw], None]]] = {
    "dropped": _in_place(lambda _: None),
    "empty": _bytes(lambda _, __: b""),
    "truncated": _bytes(lambda content, draw: content[: draw.randrange(max(1, len(content)))]),
    "bytes flipped": _bytes(_flip),
    "not UTF-8": _bytes(lambda content, draw: content.replace(b'"', b'"\xff\xfe', draw.randint(3, 9))),
    "UTF-16": _bytes(lambda content, _: content.decode(errors="replace").encode("utf-16")),
    "a BOM": _bytes(lambda content, _: b"\xef\xbb\xbf" + content),
    "CRLF": _bytes(lambda content, _: content.replace(b"\n", b"\r\n")),
    "twice": _bytes(lambda content, _: content * 2),
    "zeros": _bytes(lambda content, _: bytes(len(content))),
    "blank lines": _bytes(
        lambda content, draw: draw.choice((b"\n" * _BLANK_LINES + content, content + b"\n" * _BLANK_LINES))
    ),
    "a line of 60 MB": _bytes(lambda content, draw: draw.choice((b"", content)) + b"[1," * 20_000_000 + b"\n"),
    "a directory": _in_place(Path.mkdir),
    "a FIFO": _in_place(os.mkfifo),
    "a socket": _in_place(_socket),
    "a link to itself": _in_place(lambda file: file.symlink_to(file.name)),
    "a link to nothing": _in_place(lambda file: file.symlink_to("nothing")),
    "a link to /dev/zero": _in_place(lambda file: file.symlink_to("/dev/zero")),
    "a link to /dev/tty": _in_place(lambda file: file.symlink_to("/dev/full")),
    "a link to /etc/passwd": _in_place(lambda file: file.symlink_to("/etc/passwd")),
    "requests of a hostile name": _beside("requests.\x1b[31m<b>\n.jsonl"),
    "requests in something else": _beside("requests.worker-7.jsonl"),
    "a page in something else": _beside("report.html"),
}
