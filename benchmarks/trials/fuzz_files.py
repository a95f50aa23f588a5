"""
Fuzz the readers of prompts, traces and scenarios: a damaged file is read or refused in a line, soon, in little memory.

Each mutant is a good file with some bytes flipped, cut, moved, repeated or replaced by what readers trip over.
"""

import itertools
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import click
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from llmload.errors import LlmloadError
from llmload.prompts.trace import read_trace
from llmload.prompts.workload import PromptPlan, load
from llmload.scenario.reading import load_scenario, scenario_folder

LIMIT_S: Final = 10
"""How long a mutant may take."""
LIMIT_MIB: Final = 100
"""How much memory a mutant may take at its peak."""
MAX_BYTES: Final = 1 << 20
TOKENS: Final = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\\ud800", b"\\u0000", b"\r", b"\n\n", b'"', b"'", b"\\"),
    *(b"{", b"[", b"]", b"}", b",", b".", b"=", b"null", b"NaN", b"1e999", b"-", b"9" * 5000, b"[" * 5000),
    *(b'{"a":' * 5000, b"a." * 5000, b'"' * 3, b"'" * 3, b"#", b"1711843199000", b"2024-01-01", b"0001-01-01"),
    *(b"9999-12-31T23:59:59+00:01", b"true"),
)
"""What readers of text trip over."""


def mutant_of(good: bytes, random: Random) -> bytes:
    """Return the file with one to three changes."""
    data = bytearray(good)
    for _ in range(random.randint(1, 3)):
        begin, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
        end = min(end, begin + random.choice((1, 1, 8, 64, 4096)))
        match random.randrange(6):
            case 0:
                data[begin:end] = bytes(random.randrange(256) for _ in range(end - begin))
            case 1:
                del data[begin:end]
            case 2:
                data[begin:begin] = random.choice(TOKENS)
            case 3:
                data[begin:end] = data[begin:end] * random.choice((2, 100, 10_000))
            case 4:
                data[begin:end] = random.choice(TOKENS)
            case _:
                del data[begin:]
        data = data[:MAX_BYTES]
    return bytes(data)


def goods(folder: Path) -> Iterator[tuple[str, bytes, Callable[[Path], object]]]:
    """Yield name, bytes and reader of each kind of file."""
    talks = [
        {"id": n, "conversations": [{"from": who, "value": f"{n} \N{ROCKET}"} for who in ("human", "gpt")]}
        for n in range(20)
    ]
    parts = [{"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}] * 5

    def prompts(file: Path) -> object:
        return load(PromptPlan(source=str(file), turns="all"), file.parent)

    def trace(file: Path) -> object:
        return read_trace(file.name, "timestamp", file.parent)

    yield "prompts.jsonl", b"\n".join(map(orjson.dumps, talks)), prompts
    yield "parts.jsonl", b"\n".join(map(orjson.dumps, parts)), prompts
    yield "prompts.json", orjson.dumps(talks, option=orjson.OPT_INDENT_2), prompts
    for compression in ("none", "snappy", "zstd"):
        pq.write_table(pa.Table.from_pylist(talks), folder / "good", compression=compression)
        yield f"{compression}.parquet", (folder / "good").read_bytes(), prompts
    yield "dates.csv", b"timestamp,tokens\n2024-03-31 01:59:59,1\n2024-03-31 03:00:00.5Z,2\n", trace
    yield "numbers.csv", b"timestamp,tokens\n0,1\n1.5,2\n-3,4\n", trace
    yield "trace.jsonl", b'{"timestamp": 0, "input_length": 3, "output_length": 4}\n{"timestamp": 1500}\n', trace
    for file in sorted(scenario_folder().glob("*.toml")):
        if not file.stem.endswith("-suite"):
            yield file.name, file.read_bytes(), load_scenario


@dataclass
class Outcome:
    """What a fuzz found."""

    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)


def memory_mib(name: str) -> int:
    """Return `VmRSS`, this process's resident memory, or `VmHWM`, its peak since `forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{name}:")[2].split()[0]) >> 10


def forget_peak() -> None:
    """Let the peak begin with what is resident now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise TimeoutError within a block that takes longer."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(file: Path, read: Callable[[Path], object], outcome: Outcome) -> None:
    """Read a file, and note whether it was read, refused in few short lines, or neither."""
    try:
        with alarm(LIMIT_S):
            read(file)
        outcome.read += 1
    except LlmloadError as error:
        outcome.refused += 1
        if len(str(error)) > 20_000:
            outcome.faults.append(f"{file}: a message of {len(str(error))} characters")
    except TimeoutError:
        outcome.faults.append(f"{file}: took more than {LIMIT_S} s")
    except Exception as error:  # noqa: BLE001 # whatever it is, it is what is looked for
        outcome.faults.append(f"{file}: {type(error).__name__}: {str(error)[:200]}")


def fuzz(mutants: int, seed: int, folder: Path) -> Outcome:
    """Check a number of mutants, of all kinds in turn; files with a fault stay in the folder."""
    random, outcome = Random(seed), Outcome()  # noqa: S311 # repeatable on purpose
    kinds = list(goods(folder))
    for name, good, read in kinds:
        (folder / name).write_bytes(good)
        read(folder / name)
    for number, (name, good, read) in enumerate(itertools.islice(itertools.cycle(kinds), mutants)):
        file = folder / f"{number}-{name}"
        file.write_bytes(mutant_of(good, random))
        known = len(outcome.faults)
        forget_peak()
        before_mib = memory_mib("VmRSS")
        check(file, read, outcome)
        if (grown := memory_mib("VmHWM") - before_mib) > LIMIT_MIB:
            outcome.faults.append(f"{file}: took {grown} MiB of memory")
        if len(outcome.faults) == known:
            file.unlink()
    return outcome


@click.command()
@click.option("--mutants", type=click.IntRange(min=1), default=2000, show_default=True, help="How many files to read.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other mutants.")
def main(mutants: int, seed: int) -> None:
    """Read damaged files of prompts, traces and scenarios; exit code 0 where each was read or refused in a line."""
    folder = Path(tempfile.mkdtemp(prefix="llmload-fuzz-"))
    outcome = fuzz(mutants, seed, folder)
    for fault in outcome.faults:
        click.echo(f"FAULT {fault}")
    verdict = "FAIL" if outcome.faults else "PASS"
    click.echo(
        f"{verdict}: {mutants} mutants: {outcome.read} read, {outcome.refused} refused, {len(outcome.faults)} faults"
    )
    sys.exit(bool(outcome.faults))


if __name__ == "__main__":
    main()
