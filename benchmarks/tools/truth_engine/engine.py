"""The engine as a separate process."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from click import ClickException

from benchmarks.tools.hosts import Host
from benchmarks.tools.truth_engine.build import HOME, executable
from benchmarks.tools.truth_engine.log import TruthLog

STOP_TIMEOUT_S = 10.0
THIS_MACHINE: Final = Host(name="this machine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When chunks are written: the first `ttft_s` after the request came, the others `gap_s` apart."""

    tokens: int = 128
    ttft_s: float = 0.050
    ttft_spread_s: float = 0.0
    """The first chunk's time varies uniformly by this much to either side, so that streams do not stay in step."""
    gap_s: float = 0.010
    jitter_s: float = 0.0
    """Every later chunk's time varies uniformly by this much to either side."""
    chunk_bytes: int = 0
    """Text in a chunk; 0: a word."""
    large_first: int = 0
    """The number of answers that have `chunk_bytes`; 0: all."""
    pieces: int = 1
    """Writes for each chunk."""
    burst: int = 1
    """Chunks that are written together."""
    nagle: bool = False
    """Without TCP_NODELAY: a small write waits until the last one is acknowledged."""
    close: bool = False
    """A connection for each answer."""

    def arguments(self) -> list[str]:
        """Return the engine's options."""
        ms = {"ttft": self.ttft_s, "ttft-spread": self.ttft_spread_s, "gap": self.gap_s, "jitter": self.jitter_s}
        counts = {"tokens": self.tokens, "chunk-bytes": self.chunk_bytes, "large-first": self.large_first}
        counts |= {"pieces": self.pieces, "burst": self.burst}
        options = {f"{name}-ms": f"{value_s * 1000:g}" for name, value_s in ms.items()} | counts
        flags = ["-nagle"] * self.nagle + ["-close"] * self.close
        return [f"-{name}={value}" for name, value in options.items()] + flags


class TruthEngine:
    """
    A running engine: `with TruthEngine(Schedule(), folder) as engine: ...`, then `engine.log`.

    `host` is where it runs and listens; `cpu` pins it to a core; `tls` makes it speak https with a self-signed
    certificate, `ca_file`.
    """

    def __init__(
        self,
        schedule: Schedule,
        folder: Path,
        *,
        cpu: int | None = None,
        tls: bool = False,
        model: str = "truth",
        host: Host = THIS_MACHINE,
    ) -> None:
        self.schedule, self.model, self.tls = schedule, model, tls
        self.address = host.address
        self.port = 0
        self.connections = 0
        self.max_streams = 0
        self.cpu_s = 0.0
        """User and system time, known once it has stopped."""
        self.spun_s = 0.0
        """The part of it that it waited without sleeping, so that a write leaves on time: no work."""
        self._log_file = folder / "truth.log"
        self._command = [*host.enter, str(executable()), "-port=0", f"-host={host.address}"]
        self._command += [f"-model={model}", f"-log={self._log_file}"]
        self._command += schedule.arguments() + ([] if cpu is None else [f"-cpu={cpu}"])
        if tls:
            certificate, key = certificate_files()
            self.ca_file: Path | None = certificate
            self._command += [f"-tls-cert={certificate}", f"-tls-key={key}"]
        else:
            self.ca_file = None

    @property
    def base_url(self) -> str:
        """Where it listens, without the API's prefix."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.tls else 'http'}://{address}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def log(self) -> TruthLog:
        """What it did; complete once it has stopped."""
        return TruthLog.read(self._log_file)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None  # noqa: S101 - Popen made a pipe
        first = self._process.stdout.readline()
        if not first:
            raise ClickException(f"the truth engine did not start: exit code {self._process.wait()}")
        self.port = json.loads(first)["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            rest, _ = self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if self._process.returncode == 0:
            reported = json.loads(rest)
            self.connections, self.max_streams = reported["connections"], reported["max_streams"]
            self.cpu_s, self.spun_s = reported["cpu_s"], reported["spun_s"]
        elif error is None:
            raise ClickException(f"the truth engine crashed: exit code {self._process.returncode}")


def certificate_files() -> tuple[Path, Path]:
    """Return a certificate for loopback, made on first use, and its key."""
    certificate, key = HOME / "loopback.pem", HOME / "loopback.key"
    if certificate.is_file() and key.is_file():
        return certificate, key
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ClickException(
            "https needs a certificate, and openssl to make it is not installed: apt-get install openssl"
        )
    HOME.mkdir(parents=True, exist_ok=True)
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=truth-engine"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
