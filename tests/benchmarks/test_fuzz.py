"""The fuzzer runs, begins with real streams, and finds a fault where there is one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.trials import fuzz, fuzz_files
from llmload.client.sse import EventsBody
from llmload.prompts import parquet


def test_samples_are_read_alike_in_all_ways(tmp_path: Path) -> None:
    fuzz.write_samples(tmp_path)

    samples = sorted(tmp_path.iterdir())
    assert {sample.name.rpartition("-")[2] for sample in samples} == {"events", "http"}
    for sample in samples:
        fuzz.check(sample.read_bytes())


def test_a_client_that_counts_what_it_should_not_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz.write_samples(tmp_path)
    monkeypatch.setattr(EventsBody, "take_chunks", lambda _self, _stamps, reads: len(reads))

    with pytest.raises(AssertionError, match="on the fast path"):
        fuzz.check((tmp_path / "vllm_chat_stream-events").read_bytes())


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no build for this Python")
def test_some_seconds_of_fuzzing_find_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.trials.fuzz", "--seconds", "4"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "stat::number_of_executed_units" in done.stderr


def test_damaged_prompts_traces_and_scenarios_are_read_or_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.trials.fuzz_files", "--mutants", "700", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: 700 mutants: " in done.stdout


def test_a_reader_that_lets_an_error_through_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_wanted", lambda *_: 1 / 0)
    monkeypatch.setattr(parquet, "DataError", ZeroDivisionError)
    outcome = fuzz_files.Outcome()
    name, good, read = next(kind for kind in fuzz_files.goods(tmp_path) if kind[0] == "none.parquet")
    (tmp_path / name).write_bytes(good)

    fuzz_files.check(tmp_path / name, read, outcome)

    assert outcome.faults == [f"{tmp_path / name}: ZeroDivisionError: division by zero"]
