"""The fuzzer reads inputs of every kind, finds nothing, and finds a fault where there is one."""

import os
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.fuzz import answers, files
from benchmarks.fuzz.__main__ import READERS, main
from benchmarks.fuzz.guided import guided, is_there
from benchmarks.fuzz.reader import Input, Reader, ReadsFile, read_file
from benchmarks.fuzz.running import Limits, Run, Tally
from llmload.client.sse import EventsBody
from llmload.errors import ConfigError
from llmload.prompts import parquet

SAMPLE = 20
"""Inputs a reader."""


def tally_of(reader: Reader, place: Path, inputs: int = 20) -> Tally:
    run = Run(reader, 1, Limits(time.monotonic() + 60, last=inputs - 1), place)
    list(run.read())
    return run.tally


def test_a_sample_of_inputs_of_every_reader_has_no_fault() -> None:
    said = CliRunner().invoke(main, ["--seed", "7", "--inputs", str(SAMPLE), "--not-guided"])

    assert said.exit_code == 0, said.output
    rows = [line.split(" | ") for line in said.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == list(READERS)
    assert [int(row[1]) for row in rows] == [SAMPLE] * len(READERS)


@pytest.mark.skipif(not is_there(), reason="atheris has no build for this Python")
def test_a_second_of_guided_inputs_finds_nothing(tmp_path: Path) -> None:
    tally = guided(READERS["events of an answer"], 1, 1, tmp_path)

    assert not tally.faults
    assert tally.inputs > tally.refused > 0


def test_a_client_that_counts_what_it_should_not_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventsBody, "take_chunks", lambda _self, _stamps, reads: len(reads))

    tally = tally_of(answers.READERS[0], tmp_path)

    assert "AssertionError: a stream gives another result on the fast path" in tally.faults[0]


def test_a_reader_that_lets_an_error_through_is_found_with_how_to_read_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_wanted", lambda *_: 1 / 0)
    monkeypatch.setattr(parquet, "DataError", ZeroDivisionError)

    tally = tally_of(next(reader for reader in files.READERS if "Parquet" in reader.name), tmp_path)

    (first,) = (fault for fault in tally.faults if "--only 0" in fault)
    assert "x ZeroDivisionError: division by zero (" in first
    assert first.endswith("again: --reader 'prompts as Parquet' --seed 1 --only 0")


def refuse(said: str) -> None:
    raise ConfigError(said)


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda _: bytearray(150_000_000), "took 150 MB of memory"),
        (lambda _: os.kill(os.getpid(), signal.SIGKILL), "ended the process: 9"),
        (lambda _: time.sleep(60), "took more than 0.5 s"),
        (lambda file: refuse(f"{file}: \x1b[31m"), "a good input is refused"),
        (lambda file: refuse(f"{file}: {'x' * 2_000}"), "a refusal of 1 lines"),
        (lambda _: refuse("no"), "a refusal that does not name a.txt"),
    ],
    ids=["memory", "crash", "hang", "good", "long", "nameless"],
)
def test_what_a_reader_may_not_do_is_found(
    read: ReadsFile, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "0.5 s" in says:
        monkeypatch.setattr("benchmarks.fuzz.running.LIMIT_S", 0.5)
    reader = Reader("x", lambda _: [Input("a.txt", b"a")], read_file(read))

    tally = tally_of(reader, tmp_path, inputs=1)

    assert says in tally.faults[0]
