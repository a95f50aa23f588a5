"""A process in which the clients run patched, and servers that play scripts to them."""

import pickle
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.scripted_server import ScriptedServer, Step

HERE = Path(__file__).parent


class PatchedProcess:
    """Does jobs, functions of `patched.py`, in a separate process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(HERE / "patched.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __call__(self, job: str, *arguments: Any, **named: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((job, arguments, named), self._process.stdin)
        self._process.stdin.flush()
        fine, result = pickle.load(self._process.stdout)  # noqa: S301 - from the process we started
        if not fine:
            pytest.fail(result, pytrace=False)
        return result

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def patched() -> Iterator[PatchedProcess]:
    """A patched process that does jobs."""
    process = PatchedProcess()
    yield process
    process.close()


@pytest.fixture
def patched_for_one_test() -> Iterator[PatchedProcess]:
    """A patched process for one test that changes the process's environment."""
    process = PatchedProcess()
    yield process
    process.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Start servers that play scripts, one script a connection."""
    servers: list[ScriptedServer] = []

    def start(*scripts: list[Step], **settings: Any) -> ScriptedServer:
        servers.append(ScriptedServer(scripts, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def tunnel(serve: Callable[..., ScriptedServer]) -> Callable[[int], ScriptedServer]:
    """Start a proxy that answers CONNECT and then carries bytes to a port."""
    return lambda port: serve(["read", b"HTTP/1.1 200 Connection established\r\n\r\n", f"tunnel {port}"])


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, and `server.pem` with its key, signed by that CA for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA", *usage)
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.crt", *signing)
    (folder / "server.pem").write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())
    return folder


@pytest.fixture
def server_tls(certificates: Path) -> ssl.SSLContext:
    """A server's side of TLS with the certificate for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    return context
