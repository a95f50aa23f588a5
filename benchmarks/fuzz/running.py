"""Reading mutants in a fork with a limit of time and memory, and what came of it."""

import json
import mmap
import os
import re
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.fuzz.reader import Input, Reader, RefusedError, mutant_of
from benchmarks.tools.mutants import Draw
from llmload.errors import LlmloadError

LIMIT_S: Final = 10.0
"""How long an input may take."""
LIMIT_MB: Final = 100
"""How much memory an input may take at its peak."""
MOST_FAULTS: Final = 20
"""After 20, a reader is left."""
_LOOK_S: Final = 0.05
_HUNG: Final = -1
_NUMBER, _ACCEPTED, _REFUSED, _SLOWEST_US, _PEAK_KB, _SLOTS = range(6)


@dataclass
class Tally:
    """What came of a reader's inputs."""

    reader: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_s: float = 0.0
    peak_mb: float = 0.0
    faulty: int = 0
    """How many inputs had a fault."""
    faults: list[str] = field(default_factory=list)
    """The first of each kind."""


@dataclass(frozen=True)
class Limits:
    """What is read: until a moment of `time.monotonic`, numbers from `first`, at most up to `last`."""

    until_s: float
    first: int = 0
    last: int | None = None


def input_of(reader: Reader, goods: Sequence[Input], seed: int, number: int) -> Input:
    """Return the input of that number: the good ones first, then mutants of each in turn."""
    good = goods[number % len(goods)]
    return good if number < len(goods) else mutant_of(good, Draw(f"{seed} {reader.name} {number}"), reader.most_bytes)


class Run:
    """A reader that reads mutants in forks of this process; inputs with a fault are kept in a folder of `place`."""

    def __init__(self, reader: Reader, seed: int, limits: Limits, place: Path) -> None:
        self.tally = Tally(reader.name)
        self._reader, self._seed, self._limits = reader, seed, limits
        self._folder = place / reader.name.replace(" ", "-").replace(",", "")
        self._folder.mkdir()
        self._goods = reader.goods(self._folder)
        self._faults = self._folder / "faults.jsonl"
        self._faults.touch()
        self._shared = memoryview(mmap.mmap(-1, 8 * _SLOTS)).cast("q")
        self._shared[_NUMBER] = limits.first - 1

    def read(self) -> Iterator[None]:
        """Read; pause now and then for others to look at the tally."""
        status = -1
        while status and self.tally.faulty < MOST_FAULTS:
            pid = os.fork()
            if not pid:
                self._in_fork()
            for found in self._watched(pid):
                self._count()
                yield
                status = found or 0
            if status:
                number = self._shared[_NUMBER]
                why = f"took more than {LIMIT_S:g} s" if status == _HUNG else f"ended the process: {status}"
                self._keep(number, input_of(self._reader, self._goods, self._seed, number), why)
                status *= number >= len(self._goods)  # without a good input nothing else is read
            self._count()

    def _watched(self, pid: int) -> Iterator[int | None]:
        """Yield None while the fork reads, then its status: `_HUNG` where an input took too long."""
        number, since_s = self._shared[_NUMBER], time.monotonic()
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if self._shared[_NUMBER] != number:
                number, since_s = self._shared[_NUMBER], time.monotonic()
            elif time.monotonic() - since_s > LIMIT_S:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                yield _HUNG
                return
            yield None
            time.sleep(_LOOK_S)
        yield ended[1]

    def _count(self) -> None:
        shared, tally = self._shared, self.tally
        tally.inputs, tally.accepted, tally.refused = (
            shared[_NUMBER] + 1 - self._limits.first,
            shared[_ACCEPTED],
            shared[_REFUSED],
        )
        tally.slowest_s, tally.peak_mb = shared[_SLOWEST_US] / 1e6, shared[_PEAK_KB] * 1024 / 1e6
        kept = [json.loads(line) for line in self._faults.read_text().splitlines()]
        counts = Counter(kind for kind, _ in kept)
        firsts = dict(reversed(kept))
        tally.faults = [f"{counts[kind]} x {text}" for kind, text in firsts.items()]
        tally.faulty = len(kept)

    def _keep(self, number: int, given: Input, why: str) -> None:
        """Keep an input with a fault, and say how to read it again."""
        file = self._folder / f"{number}-{given.name}"
        file.write_bytes(given.data)
        again = f"--reader '{self._reader.name}' --seed {self._seed} --only {number}"
        with self._faults.open("a") as faults:
            said = f"{why}\n  input: {given.data[:200]!r}\n  in {file}\n  again: {again}"
            faults.write(json.dumps([_kind(why), said]) + "\n")

    def _in_fork(self) -> None:
        """Read inputs, beginning with the one after the last that was begun; ends the process."""
        scratch, code = self._folder / "scratch", 1
        try:
            scratch.mkdir(exist_ok=True)
            before = self._shared[_NUMBER]
            self._shared[_NUMBER] = max(before, 0)  # where the good one ends the process, that is its fault
            with suppress(Exception):
                self._reader.read(self._goods[0], scratch)  # imports and caches are not the memory of an input
            self._shared[_NUMBER] = before
            self._read_on(scratch)
            code = 0
        except BaseException:  # noqa: BLE001 - the fork ends here
            traceback.print_exc()
        finally:
            os._exit(code)

    def _read_on(self, scratch: Path) -> None:
        shared, limits, found = self._shared, self._limits, 0
        while found < MOST_FAULTS and shared[_NUMBER] != limits.last and time.monotonic() < limits.until_s:
            number = shared[_NUMBER] + 1
            given = input_of(self._reader, self._goods, self._seed, number)
            shared[_NUMBER] = number
            before_kb, began_s = _forget_peak(), time.perf_counter()
            why = self._read(given, scratch, is_good=number < len(self._goods))
            took_us, grown_kb = round((time.perf_counter() - began_s) * 1e6), _memory_kb("VmHWM") - before_kb
            shared[_SLOWEST_US], shared[_PEAK_KB] = max(shared[_SLOWEST_US], took_us), max(shared[_PEAK_KB], grown_kb)
            if grown_kb * 1024 > LIMIT_MB * 1_000_000:
                why = why or f"took {grown_kb * 1024 / 1e6:.0f} MB of memory"
            if why:
                found += 1
                self._keep(number, given, why)

    def _read(self, given: Input, scratch: Path, *, is_good: bool) -> str | None:
        """Read an input and count what came of it; return the fault, if there is one."""
        try:
            self._reader.read(given, scratch)
        except (LlmloadError, RefusedError) as error:
            if is_good and isinstance(error, LlmloadError):
                return f"a good input is refused: {error}"
            self._shared[_REFUSED] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            at = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {str(error)[:300]} ({at.filename}:{at.lineno})"
        else:
            self._shared[_ACCEPTED] += 1
        return None


def _kind(why: str) -> str:
    """Return what faults of one kind have in common: where an error was raised, else the first words."""
    place = why.rpartition(" (")[2]
    return place if place.endswith(")") else re.sub(r"\d+", "", why)[:60]


def _forget_peak() -> int:
    """Let the peak of memory begin with what is resident now (proc(5), clear_refs); return that, in kB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory_kb("VmRSS")


def _memory_kb(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{name}:")[2].split()[0])
