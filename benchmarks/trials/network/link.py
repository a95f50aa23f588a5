"""
Two hosts with a bad network between them: packets are delayed, lost and overtaken on their way.

What netem does, where the kernel has none: each host is a network namespace with a TUN device, and this process carries
packets from one to the other.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks import ROOT
from benchmarks.tools.hosts import Host

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 1, 0x1000
_CLONE_NEWNET: Final = 0x40000000
_PACKET_BYTES: Final = 65_536
_DEVICE: Final = "eth0"
_REORDERED_MORE_S: Final = 0.003
"""How much longer a packet takes that others overtake."""


class BadLink:
    """Two hosts, `near` and `far`, and what happens between them; `delay_s` is that of each direction."""

    def __init__(self, *, delay_s: float = 0.0, loss: float = 0.0, reordered: float = 0.0) -> None:
        self.near, self.far = (
            Host(name=name, address=f"10.78.0.{number}", namespace=f"llmload-{os.getpid()}-{name}")
            for number, name in enumerate(("near", "far"), start=1)
        )
        self._arguments = [str(self.near.namespace), str(self.far.namespace), str(delay_s), str(loss), str(reordered)]

    def __enter__(self) -> Self:
        for host in (self.near, self.far):
            subprocess.run(["ip", "netns", "add", str(host.namespace)], check=True, capture_output=True)
            subprocess.run(["ip", "-n", str(host.namespace), "link", "set", "lo", "up"], check=True)
        command = [sys.executable, "-m", "benchmarks.trials.network.link", *self._arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None  # noqa: S101 - Popen made a pipe
        self._process.stdout.readline()
        for host in (self.near, self.far):
            inside = ["ip", "-n", str(host.namespace)]
            subprocess.run([*inside, "address", "add", f"{host.address}/24", "dev", _DEVICE], check=True)
            subprocess.run([*inside, "link", "set", _DEVICE, "up"], check=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()
        for host in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", str(host.namespace)], check=False, capture_output=True)


def _open_device(namespace: str) -> int:
    """Return a descriptor of a new TUN device in the namespace."""
    with Path(f"/run/netns/{namespace}").open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def carry(near: int, far: int, delay_s: float, loss: float, reordered: float) -> None:
    """Carry packets between two devices for ever."""
    draw = random.Random(7)  # noqa: S311 - not for secrets
    on_the_way: list[tuple[float, int, int, bytes]] = []
    to = {near: far, far: near}
    poller = select.poll()
    for device in to:
        poller.register(device, select.POLLIN)
    number = 0
    while True:
        wait_s = on_the_way[0][0] - time.monotonic() if on_the_way else 1.0
        for device, _ in poller.poll(0 if wait_s < 0.001 else (wait_s - 0.001) * 1000):
            with suppress(BlockingIOError):
                while True:
                    packet = os.read(device, _PACKET_BYTES)
                    if draw.random() < loss:
                        continue
                    late_s = delay_s + (_REORDERED_MORE_S if draw.random() < reordered else 0.0)
                    heapq.heappush(on_the_way, (time.monotonic() + late_s, number, to[device], packet))
                    number += 1
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(on_the_way)
            with suppress(OSError):  # a device that is down
                os.write(device, packet)


if __name__ == "__main__":
    devices = [_open_device(namespace) for namespace in sys.argv[1:3]]
    print("open", flush=True)
    carry(*devices, *map(float, sys.argv[3:]))
