"""C programs of the benchmark: built on first use, and again when their source changes."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from click import ClickException

from benchmarks import ROOT

HOME: Final = ROOT / ".engines"
FLAGS: Final = ("-O2", "-Wall", "-Wextra")


def gcc() -> str:
    """Return the compiler; ClickException says how it is installed."""
    found = shutil.which("gcc")
    if found is None:
        raise ClickException(
            "the benchmark compiles C programs and gcc is not installed: apt-get install gcc libc6-dev"
        )
    return found


def compiled(name: str, source: Path, *, flags: Sequence[str] = (), suffix: str = "") -> Path:
    """
    Return the program that the folder's C files make; ClickException says what is missing to build it.

    `suffix` tells programs apart that other flags made of the same files.
    """
    files = sorted(source.glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    program = HOME / name.replace("-", "_") / f"{name}-{digest}{suffix}"
    if not program.is_file():
        _compile(name, [file for file in files if file.suffix == ".c"], program, flags)
    return program


def _compile(name: str, sources: Sequence[Path], program: Path, flags: Sequence[str]) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    draft = program.with_suffix(f".{os.getpid()}")
    command = [gcc(), *FLAGS, *map(str, sources), "-o", str(draft), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClickException(f"{name} does not compile:\n{done.stderr}")
    draft.replace(program)
