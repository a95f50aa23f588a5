"""The compiled engine, with TLS where OpenSSL's headers are installed."""

import subprocess
from pathlib import Path
from typing import Final

from benchmarks.tools.compiled import HOME as PROGRAMS
from benchmarks.tools.compiled import compiled, gcc

SOURCE: Final = Path(__file__).with_name("src")
HOME: Final = PROGRAMS / "truth_engine"
TLS_FLAGS: Final = ("-DWITH_TLS", "-lssl", "-lcrypto")
TLS_HEADER: Final = "#include <openssl/ssl.h>\n"


def executable() -> Path:
    """Return the engine's program; ClickException says what is missing to build it."""
    tls = has_tls()
    return compiled("truth-engine", SOURCE, flags=TLS_FLAGS if tls else (), suffix="-tls" if tls else "")


def has_tls() -> bool:
    """Return whether OpenSSL's headers are installed, which https needs."""
    check = subprocess.run([gcc(), "-E", "-x", "c", "-"], input=TLS_HEADER.encode(), capture_output=True, check=False)
    return check.returncode == 0
