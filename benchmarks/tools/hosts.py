"""Where programs run: this machine, or hosts in network namespaces with a network between them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"
_FETCH: Final = """\
import sys
from urllib.request import Request, urlopen
print(urlopen(Request(sys.argv[1], method=sys.argv[2]), timeout=90).read().decode())
"""
_INTERFACE: Final = "eth0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host to start programs on: this machine, or one of its network namespaces."""

    name: str
    address: str = LOOPBACK
    namespace: str | None = None

    def start(self, arguments: Sequence[str], *, folder: Path, output: Path) -> "subprocess.Popen[bytes]":
        """Start a program in `folder` at the head of a process group, its output in a file."""
        folder.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as out:
            return subprocess.Popen(
                [*self.enter, *arguments],
                cwd=folder,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def fetch(self, url: str, method: str = "GET") -> str:
        """Return the body of a URL, read on this host; CalledProcessError if that fails."""
        command = [*self.enter, sys.executable, "-c", _FETCH, url, method]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def unplug(self) -> None:
        """Take the host's network interface down, as a pulled cable does: no connection is closed."""
        if self.namespace is None:
            raise ValueError(f"{self.name} is this machine, which stays connected")
        _ip("-n", self.namespace, "link", "set", _INTERFACE, "down")

    @property
    def enter(self) -> list[str]:
        """The words before a command that make it run on this host."""
        return [] if self.namespace is None else ["ip", "netns", "exec", self.namespace]


class Network:
    """
    Hosts in network namespaces on one bridge, removed when the context ends.

    The first host's namespace holds the bridge; nothing is changed in the namespace that this program runs in.
    """

    def __init__(self, *names: str) -> None:
        self.hosts = [
            Host(name=name, address=f"10.77.0.{number}", namespace=f"llmload-{os.getpid()}-{name}")
            for number, name in enumerate(names, start=1)
        ]

    @staticmethod
    def missing() -> str | None:
        """Return why this machine cannot make one; None if it can."""
        if not sys.platform.startswith("linux"):
            return "network namespaces need Linux"
        if shutil.which("ip") is None:
            return "no `ip` program: apt-get install iproute2"
        if os.geteuid() != 0:
            return "network namespaces need root"
        probe = f"llmload-{os.getpid()}-probe"
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
        if made.returncode:
            return f"ip netns add: {made.stderr.strip()}"
        _ip("netns", "del", probe)
        return None

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _build(self) -> None:
        hub, *others = self.hosts
        for host in self.hosts:
            _ip("netns", "add", str(host.namespace))
            _ip("-n", str(host.namespace), "link", "set", "lo", "up")
        inside = ("-n", str(hub.namespace))
        _ip(*inside, "link", "add", "br0", "type", "bridge")
        _ip(*inside, "address", "add", f"{hub.address}/24", "dev", "br0")
        _ip(*inside, "link", "set", "br0", "up")
        for number, host in enumerate(others):
            port, own = f"port{number}", ("-n", str(host.namespace))
            _ip(*own, "link", "add", _INTERFACE, "type", "veth", "peer", "name", port, "netns", str(hub.namespace))
            _ip(*inside, "link", "set", port, "master", "br0", "up")
            _ip(*own, "address", "add", f"{host.address}/24", "dev", _INTERFACE)
            _ip(*own, "link", "set", _INTERFACE, "up")

    def _remove(self) -> None:
        for host in self.hosts:
            with suppress(subprocess.CalledProcessError):  # one that was never made
                _ip("netns", "del", str(host.namespace))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
