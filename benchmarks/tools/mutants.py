"""What can be wrong with a file: values that readers trip over, a change in JSON, TOML or msgpack, damaged bytes."""

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgpack

from llmload.scenario.reading import to_toml

Draw = random.Random
MARK: Final = "<script>llmload_mark</script>"
"""In no page, table or XML may this be a tag."""
TEXTS: Final = (
    MARK,
    f'"><img src=x onerror=alert(1)>{MARK}',
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "[bold red]markup[/bold red] [/nothing-open]",
    "\x00\x01\x08\x0b\x7f\x9b",
    "two\nlines\r\n# heading\n| cell | cell |",
    '=HYPERLINK("http://127.0.0.1")',
    "+1+cmd|' /C calc'!A0",
    "../../../../etc/passwd",
    "/dev/null",
    "\u202ebackwards\u2066",
    "\ufffe\uffff\U0001f600",
    "]]>&amp;&lt;",
    "{{ 7 * 7 }}{% raw %}",
    "",
    " ",
    "x" * 300_000,
)
RAW: Final = {
    "@nan@": "NaN",
    "@infinity@": "-Infinity",
    "@huge@": "1" + "0" * 400,
    "@surrogate@": '"\\ud800"',
    "@pair@": '"\\udc00\\ud800 text"',
    "@deep@": "[" * 5000 + "]" * 5000,
    "@object@": '{"a":' * 500 + "1" + "}" * 500,
}
"""What Python's JSON writer does not write."""
TOML_RAW: Final = {
    "@nan@": "nan",
    "@infinity@": "-inf",
    "@huge@": "1" + "0" * 400,
    "@surrogate@": '"\\ud800"',
    "@pair@": "'''\n'''",
    "@deep@": "[" * 30 + "]" * 30,
    "@object@": "{" + "a." * 20 + "a = 1}",
    "@date@": "9999-12-31T23:59:59.999999999+23:59",
    "@time@": "00:00:00",
}
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), -(2**70), 1e308, -1e308, 1e-320),
    *(0.5, -0.5, "1", "1.5", "NaN", [], {}, [[]], [None], [-1], [2**63], ["a"], {"a": 1}, [1, 2, 3]),
    *RAW,
    *TEXTS,
)
TOML_VALUES: Final[tuple[Any, ...]] = (
    *(value for value in VALUES if value is not None and value != [None]),
    *("@date@", "@time@", "/dev/zero", "/dev/tty", "/proc/self/mem", "http://[::1", "http://h:99999", "builtin:../x"),
)
"""TOML has no null, but times."""
PACKED_VALUES: Final[tuple[Any, ...]] = (
    *(value for value in VALUES if not (isinstance(value, str) and value in RAW) and value != -(2**70)),
    *(math.nan, -math.inf, b"", b"\xff\xfe", bytes(300_000), [0] * 70_000, [{}] * 400_000),
    dict.fromkeys(range(6_000), 1),
    *(json.loads("[" * deep + "]" * deep) for deep in (15, 500)),
)
"""msgpack has bytes and keys that are numbers, and no number beyond 64 bits."""


# One change in JSON, TOML or msgpack


def changed_json(content: Any, draw: Draw) -> tuple[str, str]:
    """Return what was changed of a value that JSON can hold, and its text."""
    what, content = _changed(content, draw, VALUES)
    return what, _with_raw(json.dumps(content), RAW)


def changed_toml(tables: dict[str, Any], draw: Draw) -> tuple[str, str]:
    """Return what was changed of the tables of a TOML file, and its text."""
    what, tables = _changed(tables, draw, TOML_VALUES)
    plain = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    head = to_toml({"": plain}).partition("\n")[2] if plain else ""
    return what, _with_raw(head + to_toml({key: value for key, value in tables.items() if key not in plain}), TOML_RAW)


def changed_packed(content: Any, draw: Draw) -> tuple[str, bytes]:
    """Return what was changed of a value that msgpack can hold, and its bytes."""
    what, content = _changed(content, draw, PACKED_VALUES)
    return what, msgpack.dumps(content)


def _changed(content: Any, draw: Draw, values: Sequence[Any]) -> tuple[str, Any]:
    """Change one thing of the content, in place; placeholders stand for what is put in when it is written."""
    path = draw.choice(list(_paths(content)) or [()])
    if not path:
        return "all", draw.choice(values)
    of = content
    for key in path[:-1]:
        of = of[key]
    key, where = path[-1], ".".join(map(str, path))
    how = draw.choice(("drop", "rename", "twice", "more", *("value",) * 8, *("text",) * 4))
    if how == "drop" or (isinstance(of, list) and how in {"rename", "twice", "more"}):
        del of[key]
        return f"{where} dropped", content
    if how == "rename":
        name = draw.choice(TEXTS)
        of[name] = of.pop(key)
        return f"{where} renamed {name[:20]!r}", content
    if how == "more":
        of[draw.choice(TEXTS)] = draw.choice(values)
        return f"{where}: a key more", content
    if how == "twice":
        of[f"@twice@{key}"] = value = draw.choice(values)
        return f"{where} twice, {str(value)[:20]!r}", content
    of[key] = value = draw.choice(values if how == "value" else TEXTS)
    return f"{where} = {str(value)[:20]!r}", content


def _paths(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside: Sequence[tuple[Any, Any]] = ()
    if isinstance(content, dict):
        inside = list(content.items())
    elif isinstance(content, list):
        inside = list(enumerate(content[:3]))
    for key, value in inside:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _with_raw(text: str, raw: Mapping[str, str]) -> str:
    for placeholder, written in raw.items():
        text = text.replace(f'"{placeholder}"', written)
    return text.replace("@twice@", "")


# Damaged bytes

MOST_BYTES: Final = 1 << 20
"""Of a mutant."""
TOKENS: Final = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\\ud800", b"\\u0000", b"\r", b"\n\n", b'"', b"'", b"\\"),
    *(b"{", b"[", b"]", b"}", b",", b".", b"=", b":", b"null", b"NaN", b"1e999", b"-", b"9" * 5000, b"[" * 5000),
    *(b'{"a":' * 5000, b"a." * 5000, b'"' * 3, b"'" * 3, b"#", b"1711843199000", b"2024-01-01", b"0001-01-01"),
    *(b"9999-12-31T23:59:59+00:01", b"true", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8"),
    *(b"data: ", b"event: error\n", b"\n\ndata: [DONE]\n\n", b'"error":', b"0\r\n\r\n", b"ffffffffffffffff\r\n"),
)
"""What readers of text trip over."""


def damaged(good: bytes, draw: Draw) -> bytes:
    """Return a file with one to three changes of its bytes, or in another encoding."""
    if draw.random() < 0.1:
        return _encoded(good, draw)[:MOST_BYTES]
    data = bytearray(good)
    for _ in range(draw.randint(1, 3)):
        begin, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        end = min(end, begin + draw.choice((1, 1, 8, 64, 4096)))
        match draw.randrange(7):
            case 0:
                data[begin:end] = draw.randbytes(end - begin)
            case 1:
                del data[begin:end]
            case 2:
                data[begin:begin] = draw.choice(TOKENS)
            case 3:
                data[begin:end] = data[begin:end] * draw.choice((2, 100, 10_000))
            case 4:
                data[begin:end] = draw.choice(TOKENS)
            case 5:
                lines = data.splitlines(keepends=True)
                draw.shuffle(lines)
                data = bytearray().join([*lines, *lines[:1]])
            case _:
                del data[begin:]
        data = data[:MOST_BYTES]
    return bytes(data)


def _encoded(good: bytes, draw: Draw) -> bytes:
    if (encoding := draw.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "crlf", "cr", "utf-7"))) == "crlf":
        return good.replace(b"\n", b"\r\n")
    return good.replace(b"\n", b"\r") if encoding == "cr" else good.decode(errors="replace").encode(encoding)
