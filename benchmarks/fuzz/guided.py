"""Inputs that coverage guides (atheris): in a separate process, since libFuzzer ends the one that it is in."""

import importlib.util
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import FunctionType
from typing import Final

from benchmarks.fuzz import answers, files, messages
from benchmarks.fuzz.reader import Input, Reader, RefusedError
from benchmarks.fuzz.running import LIMIT_S, Tally
from llmload.errors import LlmloadError

MOST_BYTES: Final = 8_192
_REFUSED: Final = "refused"


def is_there() -> bool:
    """Return whether atheris is installed; it is not built for every Python."""
    return importlib.util.find_spec("atheris") is not None


def guided(reader: Reader, seed: int, seconds: float, place: Path) -> Tally:
    """Let coverage guide inputs of a reader for some time; a failing one is kept in a folder of `place`."""
    folder = Path(mkdtemp(prefix="guided-", dir=place))
    samples, kept = folder / "samples", folder / "kept"
    samples.mkdir()
    kept.mkdir()
    for number, good in enumerate(reader.goods(folder)):
        (samples / f"{number}-{good.name}").write_bytes(good.data[:MOST_BYTES])
    flags = [
        *(f"-max_total_time={max(1, round(seconds))}", f"-max_len={MOST_BYTES}", f"-seed={seed % (1 << 31) or 1}"),
        *(f"-timeout={LIMIT_S:g}", "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={kept}/"),
    ]
    program = "import sys; from benchmarks.fuzz.guided import fuzz; fuzz(sys.argv.pop(1), sys.argv.pop(1))"
    command = [sys.executable, "-c", program, reader.name, str(folder / _REFUSED), *flags, str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return _tally(reader, done, int((folder / _REFUSED).read_text() or 0), kept)


def _tally(reader: Reader, done: "subprocess.CompletedProcess[str]", refused: int, kept: Path) -> Tally:
    said = done.stderr
    figures = {name: int(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", said)}
    tally = Tally(f"{reader.name}, guided", figures.get("number_of_executed_units", 0), refused=refused)
    tally.accepted = max(0, tally.inputs - refused)
    tally.slowest_s = figures.get("slowest_unit_time_sec", 0)
    tally.peak_mb = figures.get("peak_rss_mb", 0)
    if done.returncode:
        tally.faults = [f"{said[-1500:]}\n  input: {file.read_bytes()[:200]!r}\n  in {file}" for file in kept.iterdir()]
        tally.faults = tally.faults or [said[-1500:]]
        tally.faulty = 1
    return tally


def fuzz(name: str, refused: str) -> None:
    """
    Run atheris on the reader of that name with the flags on the command line; it ends the process.

    `refused` is a file for the number of inputs that are refused, since nothing runs after the end.
    """
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # not built for every Python

    reader = next(each for each in (*answers.READERS, *files.READERS, *messages.READERS) if each.name == name)
    scratch = Path(mkdtemp(prefix="llmload-fuzz-scratch-"))
    good = reader.goods(scratch)[0]
    numbers = count(1)
    file = os.open(refused, os.O_CREAT | os.O_WRONLY)

    def check(data: bytes) -> None:
        try:
            reader.read(Input(good.name, data), scratch)
        except (LlmloadError, RefusedError):
            os.pwrite(file, str(next(numbers)).encode(), 0)

    for module in reader.modules:
        for thing in vars(module).values():
            for function in vars(thing).values() if isinstance(thing, type) else [thing]:
                if isinstance(function, FunctionType) and function.__module__.startswith("llmload."):
                    atheris.instrument_func(function)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
