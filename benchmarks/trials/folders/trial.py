"""Every output of `llmload` over a run folder, in a process with a limit of time and memory, and what came of it."""

import csv
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pyarrow.parquet as pq
from click.testing import CliRunner

from benchmarks.tools.mutants import MARK
from benchmarks.trials.folders.mutations import ELSEWHERE
from benchmarks.trials.folders.samples import SUITE_FILE
from llmload.cli.main import main
from llmload.errors import ExitCode, RunFolderError
from llmload.notebook import RunData

OUTPUT_S: Final = 30.0
"""How long an output may take on a busy machine."""
MEMORY_BYTES: Final = 100_000_000
"""How much more than the process began with the outputs may need."""
MAX_LINE: Final = 600
MAX_LINES: Final = 25
"""Of what a refusal says."""
_ADDRESS_SPACE: Final = 2_000_000_000
_PRINTED: Final = "\n\t\r"
CODES: Final = frozenset({ExitCode.GOOD, ExitCode.FAILED, ExitCode.INVALID, ExitCode.INCONCLUSIVE})


@dataclass(frozen=True, slots=True)
class Came:
    """What came of an output: `shown`, `refused`, or a fault with its text."""

    output: str
    kind: str
    text: str = ""


Output = Callable[[Path, Path], tuple[str, str]]
"""Makes an output of a run folder; the second path is a folder for files. Returns kind and text."""


def _command(*arguments: str, check: Callable[[Path, str], None] | None = None) -> Output:
    def output(run: Path, place: Path) -> tuple[str, str]:
        words = [word.format(run=run, out=place / "out", sane=place.parent / "sane") for word in arguments]
        result = CliRunner().invoke(main, words)
        said = result.output
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            return "traceback", "".join(traceback.format_exception(result.exception))[-1500:]
        if any(not character.isprintable() and character not in _PRINTED for character in said if character < "\xa0"):
            return "control characters", repr(said[:500])
        if result.exit_code == ExitCode.WRONG_USE:
            return _refusal(result.stderr, run)
        if result.exit_code not in CODES:
            return "exit code", f"{result.exit_code}: {said[-500:]}"
        if check is not None:
            try:
                check(place / "out", result.stdout)
            except Exception as error:  # noqa: BLE001 - whatever a reader of it says
                return "not whole", repr(error)[:500]
        return "shown", ""

    return output


def _refusal(said: str, run: Path) -> tuple[str, str]:
    lines = said.splitlines()
    if not lines or len(lines) > MAX_LINES or any(len(line) > MAX_LINE for line in lines):
        return "refused at length", said[:500]
    if run.name not in said and "these runs are not comparable" not in said:
        return "refused without a name", said[:500]
    return "refused", said


def _notebook(part: str) -> Output:
    def output(run: Path, _place: Path) -> tuple[str, str]:
        try:
            getattr(RunData.of(run), part)
        except RunFolderError as error:
            return _refusal(str(error), run)
        except Exception as error:  # noqa: BLE001 - what is looked for
            return "traceback", "".join(traceback.format_exception(error))[-1500:]
        return "shown", ""

    return output


def _without_summary(output: Output) -> Output:
    def recomputed(run: Path, place: Path) -> tuple[str, str]:
        copy = place / run.name
        shutil.copytree(run, copy, symlinks=True, copy_function=_copy)
        for summary in copy.glob("summary.json"):
            if not summary.is_dir():
                summary.unlink()
        return output(copy, place)

    return recomputed


def _on_a_copy(output: Output) -> Output:
    def copied(run: Path, place: Path) -> tuple[str, str]:
        copy = place / run.name
        shutil.copytree(run, copy, symlinks=True, copy_function=_pipes_too)
        came = output(copy, place)
        elsewhere = run.parent / ELSEWHERE
        if elsewhere.exists() and not (elsewhere / "kept" / "file").exists():
            return "removed elsewhere", came[1]
        return came

    return copied


def _pipes_too(source: str, target: str) -> None:
    if Path(source).is_fifo():
        os.mkfifo(target)
    elif Path(source).is_symlink() or Path(source).is_file():
        shutil.copy2(source, target, follow_symlinks=False)


def _copy(source: str, target: str) -> None:
    with suppress(OSError):  # a FIFO and its like
        os.link(source, target, follow_symlinks=False)


def _page(file: Path, _said: str) -> None:
    if MARK in file.read_text(encoding="utf-8"):
        raise ValueError("a tag of the folder's is one of the page's")


def _xml(file: Path, _said: str) -> None:
    ET.parse(file)  # noqa: S314 - our own file


def _markdown(_file: Path, said: str) -> None:
    if MARK in said:
        raise ValueError("a tag of the folder's is one of the page's")


def _rows(file: Path, _said: str) -> None:
    csv.field_size_limit(1 << 30)
    with file.open(newline="", encoding="utf-8") as text:
        if len({len(row) for row in csv.reader(text, strict=True)}) > 1:
            raise ValueError("rows of several lengths")


def _parquet(file: Path, _said: str) -> None:
    pq.read_table(file)


def _json(_file: Path, said: str) -> None:
    json.loads(said, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


OUTPUTS: Final[Mapping[str, Output]] = {
    "report": _command("report", "{run}"),
    "report --svg": _command("report", "{run}", "--svg", "{out}", check=_xml),
    "report --html": _command("report", "{run}", "--html", "{out}", check=_page),
    "report --csv": _command("report", "{run}", "--csv", "{out}", check=_rows),
    "report --parquet": _command("report", "{run}", "--parquet", "{out}", check=_parquet),
    "report --junit": _command("report", "{run}", "--junit", "{out}", check=_xml),
    "report --markdown": _command("report", "{run}", "--markdown", check=_markdown),
    "report --reference-tables": _command("report", "{run}", "--reference-tables", check=_markdown),
    "report --json": _command("report", "{run}", "--json", check=_json),
    "report of two --html": _command("report", "{run}", "{sane}", "--html", "{out}", check=_page),
    **{
        f"report --definitions {tool}": _command("report", "{run}", "--definitions", tool)
        for tool in ("vllm", "sglang", "aiperf", "guidellm", "genai-bench")
    },
    "report --definitions vllm --json": _command("report", "{run}", "--definitions", "vllm", "--json", check=_json),
    "compare": _command("compare", "{sane}", "{run}", "--allow", "invalid"),
    "compare --json": _command("compare", "{run}", "{sane}", "--allow", "invalid", "--json", check=_json),
    "compare --junit": _command("compare", "{sane}", "{run}", "--allow", "load", "--junit", "{out}", check=_xml),
    "recomputed": _without_summary(_command("report", "{run}")),
    "recomputed --html": _without_summary(_command("report", "{run}", "--html", "{out}", check=_page)),
    "recomputed --junit": _without_summary(_command("report", "{run}", "--junit", "{out}", check=_xml)),
    **{f"notebook {part}": _notebook(part) for part in ("summary", "requests", "engine_samples", "gpu_samples")},
}
SUITES: Final[Mapping[str, Output]] = {
    name: _on_a_copy(_command("suite", "{run}/" + SUITE_FILE, "--out", "{run}", *options, check=check))
    for name, options, check in (
        ("suite", (), _markdown),
        ("suite --json", ("--json",), _json),
        ("suite --dry-run", ("--dry-run",), _markdown),
        ("suite --retry-failed", ("--retry-failed",), _markdown),
        ("suite --restart", ("--restart",), _markdown),
    )
}
"""Outputs of a suite's folder."""
QUICK: Final = (
    *("report", "report --html", "report --csv", "report --parquet", "report --junit", "report --definitions vllm"),
    *("compare", "recomputed", "notebook requests", "notebook engine_samples"),
)
"""Outputs that between them read every file by every reader."""
GOOD: Final = frozenset({"shown", "refused"})


def outcomes(run: Path, place: Path, sane: Path, names: Collection[str] = tuple(OUTPUTS)) -> list[Came]:
    """
    Return what came of each named output of a run folder, each made in this process's fork.

    An output that takes longer than `OUTPUT_S` ends the fork: those after it are not made.
    """
    place.mkdir()
    (place / "sane").symlink_to(sane.resolve())
    reads, writes = os.pipe()
    began_bytes = _resident_bytes()
    pid = os.fork()
    if not pid:
        os.close(reads)
        _in_fork(run, place, writes, names)
    os.close(writes)
    came, running, whole = _collected(reads)
    os.close(reads)
    if not whole:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    if not whole:
        came.append(Came(running, "hang", f"not done after {OUTPUT_S:g} s"))
    elif status:
        came.append(Came(running, "crash", f"the process ended with {os.waitstatus_to_exitcode(status)}"))
    needed_bytes = usage.ru_maxrss * 1024 - began_bytes
    if needed_bytes > MEMORY_BYTES:
        came.append(Came("all", "memory", f"{needed_bytes / 1e6:.0f} MB"))
    return came


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _collected(reads: int) -> tuple[list[Came], str, bool]:
    """Return what came, the output that was made last, and whether the fork ended within its time."""
    came: list[Came] = []
    rest, running, end_s = b"", "start", time.monotonic() + OUTPUT_S
    while (left_s := end_s - time.monotonic()) > 0:
        if not select.select([reads], [], [], left_s)[0]:
            break
        block = os.read(reads, 1 << 16)
        if not block:
            return came, running, True
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            output, kind, text = json.loads(line)
            end_s = time.monotonic() + OUTPUT_S
            if kind == "begins":
                running = output
            else:
                came.append(Came(output, kind, text))
    return came, running, False


def _in_fork(run: Path, place: Path, writes: int, names: Collection[str]) -> None:
    """Make the outputs and end the process."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        for index, name in enumerate(names):
            within = place / str(index)
            within.mkdir()
            _tell(writes, name, "begins", "")
            _tell(writes, name, *(OUTPUTS.get(name) or SUITES[name])(run, within))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - the fork ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(1)


def _tell(writes: int, *words: str) -> None:
    os.write(writes, json.dumps(words).encode() + b"\n")
