"""Request files: every record comes back from its line, and a broken file is named."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from llmload.errors import RunFolderError
from llmload.metrics.lines import columns_of
from llmload.metrics.requests import FIELDS, LINE_KEYS, LIST_KEYS, RequestTable, line_writer
from llmload.record import RequestError, RequestRecord
from llmload.runs.folder import RunFolder
from llmload.runs.requests import RequestLog, read_records, read_tables
from llmload.units import NS_PER_S
from tests.recorded import records


def test_stamps_are_those_that_were_recorded(tmp_path: Path) -> None:
    of = records(50)
    log = RequestLog(tmp_path / "r.jsonl", with_chunks=True)
    for record in of:
        log.append([record])
    log.close()
    (table,) = read_tables([tmp_path / "r.jsonl"], log._unix_offset_ns / NS_PER_S)

    expected = np.concatenate([record.chunk_ns for record in of]) / NS_PER_S
    assert table.stamps_ns / NS_PER_S == pytest.approx(expected, abs=1e-6)
    assert table.is_first_gap.sum() == sum(len(record.chunk_ns) > 0 for record in of)


@pytest.mark.parametrize("with_chunks", [True, False])
def test_a_record_comes_back_from_its_line(tmp_path: Path, with_chunks: bool) -> None:
    of = [replace(each, chunk_tokens=np.ones(len(each.chunk_ns), np.int64), stage="warm") for each in records(40)]
    log = RequestLog(tmp_path / "r.jsonl", with_chunks=with_chunks)
    log.append(of)
    log.close()

    chunks = {"chunk_ns", "chunk_tokens", "textless_ns"}
    for read, written in zip(read_records(RunFolder(tmp_path), "r.jsonl") or (), of, strict=True):
        for each in fields(RequestRecord):
            same, was = getattr(read, each.name), getattr(written, each.name)
            if each.name not in chunks:
                assert same == was, each.name
            elif with_chunks:
                assert np.array_equal(same, was), each.name


def test_a_line_has_every_field_of_a_record_and_nothing_that_is_not_in_the_table() -> None:
    record = records(4)[3]
    assert record.error is not None
    written = set(line_writer(with_chunks=True)(record, 0))

    stamps = {"chunk_ns": "chunk_gaps_ns", "textless_ns": "textless_gaps_ns"}
    of_locust = {"body_bytes"}  # for Locust's event alone: it has what the connection read, chunk framing included
    assert {stamps.get(each.name, each.name) for each in fields(RequestRecord)} - of_locust <= written
    assert written == {*LINE_KEYS, *LIST_KEYS} == {each.line_key for each in FIELDS}
    assert {each.name for each in fields(RequestError)} == {each.member for each in FIELDS if each.key == "error"}


def test_tables_join_in_any_blocks_and_are_sorted_with_their_gaps() -> None:
    written = [line_writer(with_chunks=True)(record, 0) for record in records(60)]
    lines = [orjson.loads(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY)) for line in written]
    whole = RequestTable.of_columns(columns_of(lines), 0.0).sorted_by_start()
    joined = RequestTable.joined(RequestTable.of_columns(columns_of(lines[at : at + 7]), 0.0) for at in range(0, 60, 7))

    assert list(whole.started_ns) == sorted(whole.started_ns)
    assert np.array_equal(joined.sorted_by_start().stamps_ns, whole.stamps_ns)
    assert joined.sorted_by_start().categories == whole.categories
    assert np.array_equal(whole.where(whole.failed).numbers["e2e_s"], whole.numbers["e2e_s"][whole.failed])


class TestBrokenFiles:
    def write(self, file: Path, *lines: bytes) -> Path:
        file.write_bytes(b"".join(lines))
        return file

    def line(self, **changes: Any) -> bytes:
        line = line_writer(with_chunks=True)(replace(records(2)[1], **changes), 0)
        return json.dumps(line | {"chunk_gaps_ns": line["chunk_gaps_ns"].tolist()}).encode() + b"\n"

    def test_a_last_line_that_was_cut_short_is_left_out(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "r.jsonl", self.line(), self.line()[:-20])

        assert [len(table) for table in read_tables([file], 0.0)] == [1]

    def test_a_line_that_is_not_json_is_named(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "r.jsonl", self.line(), b"{nonsense\n", self.line())

        with pytest.raises(RunFolderError, match=r"r\.jsonl: line 2 is not JSON"):
            list(read_tables([file], 0.0))

    def test_a_line_without_a_key_is_named(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "r.jsonl", self.line(), b'{"outcome": "completed"}\n')

        with pytest.raises(RunFolderError, match=r"r\.jsonl: line 2 has no request_id"):
            list(read_tables([file], 0.0))
