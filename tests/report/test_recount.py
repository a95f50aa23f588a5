"""Many requests at a time come to just what they come to one by one."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import LIMITS, records

from llmload.errors import RunFolderError
from llmload.metrics.totals import RunTotals, Window
from llmload.record import RequestRecord, Slo
from llmload.runs import aggregate as recount
from llmload.runs.aggregate import WindowS
from llmload.runs.folder import RequestLog
from llmload.runs.request_table import read_columns
from llmload.units import NS_PER_S

SLO = Slo(**LIMITS)


def one_by_one(of: list[RequestRecord], window: Window, run_start_ns: int, slo: Slo = SLO) -> RunTotals:
    totals = RunTotals()
    for record in of:
        totals.started += 1
        totals.add(record, window=window, slo=slo, run_start_ns=run_start_ns)
    return totals


def all_at_once(of: list[RequestRecord], window: WindowS, run_start_ns: int, file: Path) -> RunTotals:
    log_file = RequestLog(file, with_chunks=True)
    origin_unix_s = (run_start_ns + log_file._unix_offset_ns) / NS_PER_S
    for record in of:
        log_file.append([record])
    log_file.close()
    totals = RunTotals()
    for columns in read_columns([file], origin_unix_s):
        recount.add(totals, columns, window=window, slo=SLO)
    return totals


def plain(totals: RunTotals) -> dict[str, Any]:
    message = totals.to_message()
    del message["exemplars"]  # of late: a matter of the live run alone
    return message


def about(message: dict[str, Any]) -> dict[str, Any]:
    for part in ("distributions", "outside"):
        for histogram in message[part].values():
            histogram["total"] = pytest.approx(histogram["total"])
    return {
        key: pytest.approx(value, abs=1e-5) if isinstance(value, float) else value for key, value in message.items()
    }


@pytest.mark.parametrize("open_loop", [False, True], ids=["closed loop", "open loop"])
@pytest.mark.parametrize(("from_s", "to_s"), [(0.0, None), (5.0, 20.0), (None, None)], ids=["all", "window", "none"])
def test_many_at_a_time_come_to_what_they_come_to_one_by_one(
    from_s: float | None, to_s: float | None, open_loop: bool, tmp_path: Path
) -> None:
    of = records(600, open_loop=open_loop)
    start_ns = min(record.started_ns for record in of) - NS_PER_S
    window = Window(
        start_ns=None if from_s is None else start_ns + int(from_s * NS_PER_S),
        end_ns=None if to_s is None else start_ns + int(to_s * NS_PER_S),
    )

    counted = all_at_once(of, WindowS(from_s=from_s, to_s=to_s), start_ns, tmp_path / "r.jsonl")

    assert plain(counted) == about(plain(one_by_one(of, window, start_ns)))


def test_the_files_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = records(400)
    whole = all_at_once(of, WindowS(from_s=2.0, to_s=20.0), of[0].started_ns, tmp_path / "a.jsonl")
    monkeypatch.setattr("llmload.runs.request_table.BLOCK_BYTES", 3000)
    pieces = all_at_once(of, WindowS(from_s=2.0, to_s=20.0), of[0].started_ns, tmp_path / "b.jsonl")

    assert plain(pieces) == about(plain(whole))


def test_stamps_are_those_that_were_recorded(tmp_path: Path) -> None:
    of = records(50)
    log = RequestLog(tmp_path / "r.jsonl", with_chunks=True)
    for record in of:
        log.append([record])
    log.close()
    (columns,) = read_columns([tmp_path / "r.jsonl"], log._unix_offset_ns / NS_PER_S)

    expected = np.concatenate([record.chunk_ns for record in of]) / NS_PER_S
    assert columns.stamps_s() == pytest.approx(expected, abs=1e-6)
    assert columns.first_of_each().sum() == sum(len(record.chunk_ns) > 0 for record in of)


class TestBrokenFiles:
    def write(self, file: Path, *lines: bytes) -> Path:
        file.write_bytes(b"".join(lines))
        return file

    def line(self, **changes: Any) -> bytes:
        log = RequestLog(Path("/dev/null"), with_chunks=True)
        line = log._line(replace(records(2)[1], **changes))
        log.close()
        line["chunk_gaps_ns"], line["chunk_tokens"] = line["chunk_gaps_ns"].tolist(), None
        return json.dumps(line).encode() + b"\n"

    def test_a_last_line_that_was_cut_short_is_left_out(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "r.jsonl", self.line(), self.line()[:-20])

        assert [len(columns) for columns in read_columns([file], 0.0)] == [1]

    def test_a_line_that_is_no_json_is_named(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "r.jsonl", self.line(), b"{nonsense\n", self.line())

        with pytest.raises(RunFolderError, match=r"r\.jsonl: line 2 is not JSON"):
            list(read_columns([file], 0.0))

    def test_a_line_without_a_key_is_named(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "r.jsonl", self.line(), b'{"outcome": "completed"}\n')

        with pytest.raises(RunFolderError, match=r"r\.jsonl: line 2 has no time_s"):
            list(read_columns([file], 0.0))


def test_the_record_has_no_field_that_the_columns_forgot() -> None:
    """Whoever adds a field to the record decides here whether the report counts it."""
    known = {
        "request_id",
        "prompt_id",
        "stage",
        "connected_ns",
        "sent_ns",
        "chunk_tokens",
        "textless_ns",
    }  # not summed up
    counted = set(asdict(records(1)[0])) - known

    assert counted == {
        *("started_ns", "done_ns", "outcome", "scheduled_ns", "chunk_ns", "prompt_tokens", "output_tokens"),
        *("cached_tokens", "reasoning_tokens", "token_source", "finish_reason", "error", "stamp_source"),
        *("reconnects", "retries"),
    }
