"""The compiled engine: built on first use, and again when its source changes."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from click import ClickException

from benchmarks import ROOT

SOURCE: Final = Path(__file__).with_name("src")
HOME: Final = ROOT / ".engines" / "truth_engine"
FLAGS: Final = ("-O2", "-Wall", "-Wextra")
TLS_FLAGS: Final = ("-DWITH_TLS", "-lssl", "-lcrypto")
TLS_HEADER: Final = "#include <openssl/ssl.h>\n"


def executable() -> Path:
    """Return the engine's program; ClickException says what is missing to build it."""
    files = sorted(SOURCE.glob("*.[ch]"))
    source = b"".join(file.read_bytes() for file in files)
    program = HOME / f"truth-engine-{hashlib.sha256(source).hexdigest()[:12]}{'-tls' if has_tls() else ''}"
    if not program.is_file():
        _compile([file for file in files if file.suffix == ".c"], program)
    return program


def has_tls() -> bool:
    """Return whether OpenSSL's headers are installed, which https needs."""
    check = subprocess.run([_gcc(), "-E", "-x", "c", "-"], input=TLS_HEADER.encode(), capture_output=True, check=False)
    return check.returncode == 0


def _gcc() -> str:
    gcc = shutil.which("gcc")
    if gcc is None:
        raise ClickException("the truth engine is a C program and gcc is not installed: apt-get install gcc libc6-dev")
    return gcc


def _compile(sources: list[Path], program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    draft = program.with_suffix(f".{os.getpid()}")
    command = [_gcc(), *FLAGS, *map(str, sources), "-o", str(draft), *(TLS_FLAGS if has_tls() else ())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClickException(f"the truth engine does not compile:\n{done.stderr}")
    draft.replace(program)
