"""Parquet files of any types are read or refused by row and key; one that expands beyond its size is refused."""

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmload.errors import DataError
from llmload.prompts.sources import PromptSet, load_prompt_set

SHAREGPT = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))


def load(file: Path) -> PromptSet:
    return load_prompt_set(str(file), None, Path())


def write(file: Path, values: list[Any], kind: Any = None, column: str = "conversations", **options: Any) -> Path:
    pq.write_table(pa.table({column: pa.array(values, type=kind), "n": [0] * len(values)}), file, **options)
    return file


@pytest.mark.parametrize(
    "text",
    [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()],
    ids=str,
)
@pytest.mark.parametrize("compression", ["none", "zstd", "snappy"])
def test_every_type_of_text_is_text(tmp_path: Path, text: Any, compression: str) -> None:
    rows = [["2024-01-01", "1"], ["q \N{ROCKET}", "true"]]

    read = load(write(tmp_path / "x.parquet", rows, pa.large_list(text), compression=compression))

    assert [[message["content"] for message in dialogue.messages] for dialogue in read.dialogues] == rows


def test_null_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [None, [{"from": "human", "value": "q"}], [], [{"from": "human", "value": None}]]

    read = load(write(tmp_path / "x.parquet", rows, SHAREGPT))

    assert [dialogue.row for dialogue in read.dialogues] == [1]
    assert read.skipped_by_reason() == {
        "has null instead of turns": 1,
        "no turn by the user": 1,
        "has a turn without text": 1,
    }


@pytest.mark.parametrize(
    ("values", "kind", "says"),
    [
        ([[dt.datetime(2024, 1, 1)]], pa.list_(pa.timestamp("us")), r"row 0 .*`conversations\[0\]` is datetime"),  # noqa: DTZ001 # naive, as Parquet has them
        ([[1, 2]], pa.list_(pa.int64()), r"row 0 .*`conversations\[0\]` is 1"),
        (["q"], pa.string(), r"row 0 .*`conversations` is 'q', not a list"),
        ([[b"q"]], pa.list_(pa.binary()), r"row 0 .*`conversations\[0\]` is b'q'"),
        ([{"a": "q"}], pa.struct([("a", pa.string())]), r"row 0 .*`conversations` is {'a'"),
        ([[{"from": "human", "value": "q"}, None]], SHAREGPT, r"row 0 .*`conversations\[1\]` is None"),
    ],
)
def test_other_types_are_faults_by_row_and_key(tmp_path: Path, values: list[Any], kind: Any, says: str) -> None:
    with pytest.raises(DataError, match=rf"x\.parquet: {says}"):
        load(write(tmp_path / "x.parquet", values, kind))


def test_a_text_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    bytes_ = pa.array([b"fine", b"caf\xe9"], type=pa.binary())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], type=pa.int32()), bytes_.view(pa.string()))
    pq.write_table(pa.table({"conversations": lists}), tmp_path / "x.parquet")

    with pytest.raises(DataError, match=r"row 1 \(the first is 0\): has a text that is not UTF-8 \(byte 4 of it\)"):
        load(tmp_path / "x.parquet")


def test_columns_are_named_where_none_is_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no column `conversations` or `messages` \(its columns: `prompt`, `n`\)"):
        load(write(tmp_path / "x.parquet", ["q"], column="prompt"))


def test_rows_are_numbered_on_from_shard_to_shard(tmp_path: Path) -> None:
    for shard in range(3):
        write(tmp_path / f"train-0000{shard}-of-00003.parquet", [[f"q{shard}"], [f"p{shard}"]])

    read = load_prompt_set(str(tmp_path), None, Path())

    assert [(dialogue.row, dialogue.question) for dialogue in read.dialogues] == list(
        enumerate(["q0", "p0", "q1", "p1", "q2", "p2"])
    )


def bombs(folder: Path) -> dict[str, Path]:
    """Files of a few kilobytes that expand to hundreds of megabytes, each in its own way."""
    text = "x" * (1 << 20)
    nulls = folder / "e.parquet"
    turns = pa.ListArray.from_arrays(pa.array([0, 5_000_000], type=pa.int32()), pa.nulls(5_000_000, pa.string()))
    pq.write_table(pa.table({"conversations": turns}), nulls, compression="zstd")
    once: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}
    return {
        "zeros": write(folder / "a.parquet", [["\0" * (192 << 20)]], **once),
        "repeated": write(folder / "b.parquet", [[text]] * 192, compression="zstd"),
        "one-row": write(folder / "c.parquet", [[text] * 192], compression="zstd"),
        "empty-rows": write(folder / "d.parquet", [None] * 3_000_000, pa.list_(pa.string())),
        "null-turns": nulls,
    }


LOAD = """
import resource, sys
from pathlib import Path
from llmload.errors import DataError
from llmload.prompts.sources import load_prompt_set
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_prompt_set(sys.argv[1], None, Path())
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_small_file_that_expands_to_hundreds_of_megabytes_is_refused_within_its_limit(tmp_path: Path) -> None:
    for name, file in bombs(tmp_path).items():
        assert file.stat().st_size < 1 << 20, name
        done = subprocess.run([sys.executable, "-c", LOAD, str(file)], capture_output=True, text=True, check=True)
        says, _, mebibytes = done.stdout.strip().rpartition("\n")

        assert "expands to more than 64 MiB" in says, name
        assert int(mebibytes) < 128, name  # what is read at a time, and what Arrow's allocator keeps of it


def test_repeated_prompts_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", [["the same question " * 20, "a"]] * 50_000, compression="zstd")

    assert len(load(file).dialogues) == 50_000


def test_metadata_that_end_the_process_which_reads_them_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "p.parquet", [[{"from": "human", "value": "q"}]], SHAREGPT)
    optional, unknown = b"5\x02\x18\x0dconversations", b"5\x12\x18\x0dconversations"
    assert optional in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(optional, unknown))

    with pytest.raises(DataError, match=r"p\.parquet: cannot be read as Parquet: its metadata contradict each other"):
        load(file)
