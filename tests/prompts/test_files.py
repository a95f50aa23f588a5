"""A row is read for itself: nothing is inferred from other rows, and what cannot be read is named by its line."""

import codecs
import gzip
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmload.errors import DataError
from llmload.prompts import files
from llmload.prompts.files import Row, read_json
from llmload.prompts.sources import PromptSet, load_prompt_set
from tests.prompts.conftest import WriteRows

MARK = codecs.BOM_UTF8
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text("xyz", max_size=4), JSON, max_size=4), min_size=1, max_size=6)
SPACE = st.text(" \n\r\t", max_size=4)


def row(question: Any = "q", **more: Any) -> dict[str, Any]:
    return {**more, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "a"}]}


def load(file: Path) -> PromptSet:
    return load_prompt_set(str(file), None, Path())


def questions(file: Path) -> list[str]:
    return [dialogue.question for dialogue in load(file).dialogues]


def values(rows: Iterator[Row]) -> list[dict[str, Any]]:
    return [each.value for each in rows]


class TestEachRowForItself:
    @pytest.mark.parametrize(
        ("early", "late"),
        [
            pytest.param({"system": None}, {"system": "be brief"}, id="null-then-text"),
            pytest.param({}, {"lang": "en"}, id="late-key"),
            pytest.param({"id": 1}, {"id": "b"}, id="number-then-text"),
            pytest.param({"meta": []}, {"meta": {"a": [1]}}, id="list-then-object"),
            pytest.param({"at": "2024-01-01"}, {"at": "soon"}, id="date-then-text"),
            pytest.param({"score": float("nan")}, {"score": "n/a"}, id="nan-then-text"),
            pytest.param({"n": 1}, {"n": 10**40}, id="small-then-huge"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".jsonl", ".json"])
    def test_keys_that_are_not_read_may_be_anything(
        self, tmp_path: Path, early: dict[str, Any], late: dict[str, Any], suffix: str
    ) -> None:
        rows = [*(row(f"q{n}", **early) for n in range(50)), row("last", **late)]
        file = tmp_path / f"x{suffix}"
        file.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))

        assert questions(file)[-1] == "last"
        assert len(questions(file)) == 51

    @pytest.mark.parametrize(
        "text",
        ["2024-01-01", "2024-01-01T00:00:00Z", "12:30", "1", "1e5", "true", "null", "NaN", "a\0b", "a\u2028b", "'"],
    )
    def test_a_text_stays_what_it_is(self, write_rows: WriteRows, text: str) -> None:
        assert questions(write_rows("x.jsonl", [row(text)] * 3)) == [text] * 3

    @pytest.mark.parametrize("value", [1, 1.5, True, {"a": 1}, float("nan"), 10**30])
    def test_what_is_not_a_text_is_a_fault_by_row_line_and_key(self, write_rows: WriteRows, value: Any) -> None:
        file = write_rows("x.jsonl", ["", row(), "", row(value)])

        with pytest.raises(
            DataError, match=r"x\.jsonl: row 1 \(the first is 0\), line 4: key `conversations\[0\]` has"
        ):
            load(file)

    def test_parts_of_text_are_joined_and_one_is_that_text(self, write_rows: WriteRows) -> None:
        parts: list[list[Any]] = [
            [{"type": "text", "text": "one"}],
            [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            ["one", "two"],
            [{"type": "input_text", "text": "one"}, {"type": "text", "text": ""}],
        ]

        file = write_rows("x.jsonl", [{"messages": [{"role": "user", "content": each}]} for each in parts])

        assert questions(file) == ["one", "one\ntwo", "one\ntwo", "one"]

    @pytest.mark.parametrize("part", [5, None, {"type": "text", "text": 5}, ["text"]])
    def test_a_part_without_form_is_a_fault(self, write_rows: WriteRows, part: Any) -> None:
        file = write_rows("x.jsonl", [{"messages": [{"role": "user", "content": [part]}]}])

        with pytest.raises(DataError, match=r"row 0 .*line 1: key `messages\[0\]` has .* part"):
            load(file)

    def test_a_long_value_is_cut_in_the_message(self, write_rows: WriteRows) -> None:
        file = write_rows("x.jsonl", [{"conversations": {"x" * 100_000: 1}}])

        with pytest.raises(DataError) as refused:
            load(file)

        assert len(str(refused.value)) < 400


class TestHalfOfASurrogatePair:
    @pytest.mark.parametrize("escape", ["\\ud835", "\\udc00", "\\uD83D x", "\\udc00\\ud835"])
    @pytest.mark.parametrize("form", ["{}\n", "[{}]"])
    def test_becomes_a_replacement_character_and_is_counted(self, tmp_path: Path, escape: str, form: str) -> None:
        file = tmp_path / "x.jsonl"
        text = json.dumps(row("bold @ text")).replace("@", escape)
        file.write_text(form.replace("{}", text))

        read = load(file)

        assert "\ufffd" in read.dialogues[0].question
        assert read.dialogues[0].question.encode()
        assert read.changed_by_reason() == {"half of a surrogate pair became U+FFFD": 1}
        assert read.notes() == ("prompts x: half of a surrogate pair became U+FFFD (1 of 1 rows)",)

    def test_a_whole_pair_is_a_character(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        file.write_text(json.dumps(row("\N{ROCKET}")))

        assert questions(file) == ["\N{ROCKET}"]
        assert load(file).notes() == ()


class TestBytes:
    @pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "mark"])
    @pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\n\n \n"], ids=["unix", "windows", "blank"])
    @pytest.mark.parametrize("array", [False, True])
    def test_marks_line_ends_and_blank_lines_carry_nothing(
        self, tmp_path: Path, mark: bytes, newline: bytes, array: bool
    ) -> None:
        rows = [json.dumps(row(f"q{n}")).encode() for n in range(3)]
        body = b"[" + (b"," + newline).join(rows) + b"]" if array else newline.join(rows)
        file = tmp_path / "x.jsonl"
        file.write_bytes(mark + newline + body + newline)

        assert questions(file) == ["q0", "q1", "q2"]

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (json.dumps(row()).encode("utf-16"), "is UTF-16: convert it to UTF-8"),
            (json.dumps(row()).encode("utf-16-le"), "is UTF-16"),
            (json.dumps(row()).encode("utf-16-be"), "is UTF-16"),
            (json.dumps(row()).encode("utf-32"), "is UTF-32"),
            (gzip.compress(b"{}"), "is compressed with gzip: unpack it first"),
            (b"\x28\xb5\x2f\xfd\x00", "is compressed with zstd"),
            (b"PK\x03\x04", "is compressed with zip"),
            (b"PAR1....", r"is Parquet.*rename it to \.parquet"),
            (b"", "is empty"),
            (MARK, "has no rows"),
            (b"{}\n{'a'}\n", "neither `conversations`"),
            (
                json.dumps(row()).encode() + b'\n{"conversations": ["caf\xe9"]}\n',
                "line 2 is not UTF-8 .*byte 24 .*0xe9",
            ),
            (b'[\n{"conversations": ["a"]},\n{"conversations": ["caf\xe9"]}]', "line 3 is not UTF-8 .*byte 24 .*0xe9"),
            (b'[{"conversations": ["a"]},]', "line 1 is not JSON"),
            (b'[{"conversations": ["a"]}\n{"conversations": ["a"]}]', "line 2 is not JSON: '{' where a comma"),
            (b'[{"conversations": ["a"]}', "line 1 is not JSON: its array does not end"),
            (b'[{"conversations": ["a"]}]\n\nx', "line 3 is not JSON: 'x' after the array's end"),
            (b'[{"conversations": ["a"', "line 1 is not JSON"),
            (b'{\n  "conversations": ["a"]\n}', "line 1 is not JSON: .*a row is one line, or an element of an array"),
            (b"[" * 100_000, "nested too deeply"),
            (b'{"a":' * 100_000, "nested too deeply"),
            (b'{"a": ' + b"9" * 5_000 + b", 'b'}", "digits"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, content: bytes, says: str) -> None:
        file = tmp_path / "x.jsonl"
        file.write_bytes(content)

        with pytest.raises(DataError, match=rf"x\.jsonl: .*{says}") as refused:
            load(file)

        assert len(str(refused.value)) < 500
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize("form", ['{{"conversations": ["{}"]}}', '[{{"conversations": ["{}"]}}]'])
    def test_a_row_longer_than_the_limit_is_refused(
        self, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MAX_ROW_BYTES", 1 << 20)
        file = tmp_path / "x.jsonl"
        file.write_text(form.format("x" * (5 << 20)))

        with pytest.raises(DataError, match=r"line 1 is longer than 1 MiB"):
            load(file)

    @pytest.mark.parametrize("name", ["x.jsonl.gz", "x.zip", "x.jsonl.zst"])
    def test_a_compressed_file_is_named_by_its_ending(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"x")

        with pytest.raises(DataError, match=r"is compressed .*: unpack it first"):
            load_prompt_set(name, None, tmp_path)

    def test_a_link_is_followed_and_a_pipe_is_refused(self, tmp_path: Path, write_rows: WriteRows) -> None:
        (tmp_path / "link.jsonl").symlink_to(write_rows("x.jsonl", [row()]))
        os.mkfifo(tmp_path / "pipe.jsonl")

        assert questions(tmp_path / "link.jsonl") == ["q"]
        with pytest.raises(DataError, match="is no regular file"):
            load(tmp_path / "pipe.jsonl")

    @pytest.mark.parametrize("source", ["x" * 5_000, "~no-such-user-here/x.jsonl", "a\0b.jsonl"])
    def test_a_name_that_no_file_can_have_is_refused_in_a_line(self, tmp_path: Path, source: str) -> None:
        with pytest.raises(DataError, match="prompts: source"):
            load_prompt_set(source, None, tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=OBJECTS, gaps=st.lists(SPACE, min_size=14, max_size=14), block=st.integers(1, 40))
def test_any_objects_are_read_as_written(tmp_path: Path, rows: list[Any], gaps: list[str], block: int) -> None:
    """In an array, however it is spaced and in whatever blocks it is read, and line by line."""
    texts = [json.dumps(each, ensure_ascii=index % 2 == 0) for index, each in enumerate(rows)]
    spaced = ",".join(f"{gaps[2 * index]}{text}{gaps[2 * index + 1]}" for index, text in enumerate(texts))
    file = tmp_path / "x.json"

    file.write_text(f"{gaps[-1]}[{spaced}]{gaps[-2]}", encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK_BYTES", block)
        array = list(read_json(file, "x"))
    file.write_text("\n".join(texts), encoding="utf-8", newline="")

    assert [each.value for each in array] == rows == values(read_json(file, "x"))
    assert [each.number for each in array] == list(range(len(rows)))
    assert array[0].line == f"{gaps[-1]}[{gaps[0]}".count("\n") + 1


@pytest.mark.parametrize("form", ["{}\n", "[{}]"])
def test_a_file_takes_little_memory_beside_its_texts(tmp_path: Path, form: str) -> None:
    file = tmp_path / "x.json"
    joined = (",\n" if form == "[{}]" else "\n").join(json.dumps(row(f"q{n} " + "x" * 200)) for n in range(20_000))
    file.write_text(form.replace("{}", joined))
    size = file.stat().st_size

    tracemalloc.start()
    read = load(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(read.dialogues) == 20_000
    assert peak < 2 * size + (8 << 20)


def test_a_long_read_says_how_far_it_is(
    write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "_QUIET_S", 0.0)

    load(write_rows("x.jsonl", [row()] * 2_100))

    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition("x.jsonl")[2] for line in said] == [
        ": 1,024 rows so far",
        ": 2,048 rows so far",
    ]
