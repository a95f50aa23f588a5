"""An open connection: reads with the kernel's stamp of arrival, writes that never block."""

import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from llmload.client.tls import TlsLayer
from llmload.units import NS_PER_S

# The kernel's stamps of arrival, taken by the wall clock, as readings of the monotonic clock.

_STEP_NS: Final = 20_000
"""Both clocks are slewed alike, so their distance changes only by steps; less than this is noise of reading them."""


class ReceiveClock:
    """
    Turns wall-clock stamps into monotonic ones; `sample()` before each batch of reads, then `monotonic_ns(stamp)`.

    While the wall clock does not jump, `offset_ns` is one constant, so gaps between stamps are the kernel's to the
    nanosecond. In the batch that follows a jump, a stamp may have been taken before or after it: the reading that
    lies between the batch before and now is the right one.
    """

    def __init__(
        self,
        monotonic: Callable[[], int] = time.monotonic_ns,
        realtime: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic = monotonic
        self._realtime = realtime
        self.now_ns = 0
        self.offset_ns = 0
        self.stepped = False
        self._offset_before_ns = 0
        self._sampled_before_ns = 0
        self.restart()

    def restart(self) -> None:
        """Forget the past: a jump of the wall clock while nobody read is none."""
        _, self.offset_ns = min(self._distance() for _ in range(16))
        self._offset_before_ns = self.offset_ns
        self._sampled_before_ns = self.now_ns
        self.stepped = False

    def sample(self) -> None:
        """Read both clocks for the batch of reads that follows."""
        self._sampled_before_ns = self.now_ns
        if self.stepped:
            self._offset_before_ns = self.offset_ns
            self.stepped = False
        width_ns, offset_ns = self._distance()
        if abs(offset_ns - self.offset_ns) > width_ns + _STEP_NS:
            _, offset_ns = min(self._distance() for _ in range(16))
            self._offset_before_ns = self.offset_ns
            self.offset_ns = offset_ns
            self.stepped = True

    def monotonic_ns(self, stamp_ns: int) -> int:
        """Return a wall-clock stamp as a reading of the monotonic clock."""
        arrived_ns = stamp_ns + self.offset_ns
        if not self.stepped or self._plausible(arrived_ns):
            return arrived_ns
        before_ns = stamp_ns + self._offset_before_ns
        return before_ns if self._plausible(before_ns) else self.now_ns

    def _plausible(self, arrived_ns: int) -> bool:
        return self._sampled_before_ns - _STEP_NS <= arrived_ns <= self._monotonic()

    def _distance(self) -> tuple[int, int]:
        before_ns = self._monotonic()
        wall_ns = self._realtime()
        self.now_ns = self._monotonic()
        return self.now_ns - before_ns, (before_ns + self.now_ns) // 2 - wall_ns


READ_BYTES: Final = 32_768
_SMALL_BUFSIZE: Final = 479
"""What is asked for after a read of clearly less, as chunks are small: Python's own allocator has so much at hand."""
SMALL_READ_BYTES: Final = _SMALL_BUFSIZE - 128
"""A read of fewer bytes than this is clearly less."""

_SO_TIMESTAMPING: Final = 37
_SOF_RX_SOFTWARE: Final = 1 << 3
_SOF_SOFTWARE: Final = 1 << 4
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(48)
timespec: Final = struct.Struct("qq").unpack_from
"""Reads seconds and nanoseconds out of a stamp."""

Received = tuple[bytes, list[tuple[int, int, bytes]], int, Any]
"""What a socket's `recvmsg` returns."""
Receive = Callable[[int, int], Received]


def enable_timestamps(sock: socket.socket) -> bool:
    """Ask the kernel to stamp what the socket receives; return whether it took the wish."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _SOF_RX_SOFTWARE | _SOF_SOFTWARE)
    except OSError:
        return False
    return True


def received_stamp(sock: socket.socket) -> bool:
    """Receive once, and return whether the kernel stamped it."""
    _, ancillary, _, _ = sock.recvmsg(READ_BYTES, ANCILLARY_BYTES)
    return bool(ancillary)


class Connection:
    """
    A connected, non-blocking socket and the TLS on it, if any.

    `arrived_ns` is the monotonic reading of the last `receive`, `stamped` whether the kernel took it.
    """

    __slots__ = (
        "_clock",
        "_sock",
        "_tls",
        "_unsent",
        "arrived_ns",
        "bufsize",
        "drained",
        "fd",
        "recvmsg",
        "stamped",
        "used",
    )

    def __init__(self, sock: socket.socket, clock: ReceiveClock, tls: TlsLayer | None = None) -> None:
        self._sock = sock
        self.recvmsg: Receive = sock.recvmsg
        self._clock = clock
        self._tls = tls
        self._unsent: memoryview | None = None
        self.bufsize = READ_BYTES
        """How many bytes the next read is to ask for."""
        self.drained = True
        """Whether the last read took everything that had arrived."""
        self.fd = sock.fileno()
        self.arrived_ns = 0
        self.stamped = False
        self.used = False
        """Whether a request was sent on it before this one."""

    def receive(self) -> bytes:
        """
        Return what has arrived, at most `READ_BYTES`; with TLS it may be nothing.

        Raises `BlockingIOError` where nothing has arrived, `EOFError` at the end, `OSError` for a broken connection.
        """
        return self.take(self.recvmsg(self.bufsize, ANCILLARY_BYTES))

    def take(self, received: Received) -> bytes:
        """Return what `recvmsg(asked, ANCILLARY_BYTES)` has brought, as `receive` does."""
        data, ancillary, _, _ = received
        got = len(data)
        self.drained = got < self.bufsize
        self.bufsize = _SMALL_BUFSIZE if got < SMALL_READ_BYTES else READ_BYTES
        if ancillary:
            seconds, nanoseconds = timespec(ancillary[0][2])
            clock = self._clock
            stamp_ns = seconds * NS_PER_S + nanoseconds
            self.arrived_ns = clock.monotonic_ns(stamp_ns) if clock.stepped else stamp_ns + clock.offset_ns
            self.stamped = True
        elif data:
            self.arrived_ns = time.monotonic_ns()
            self.stamped = False
        if self._tls is not None:
            return self._decrypt(self._tls, data)
        if not data:
            raise EOFError
        return data

    @property
    def allows_fast_path(self) -> bool:
        """Whether reads are small, stamped and in clear, as they will be."""
        return self.stamped and self._tls is None and self.bufsize == _SMALL_BUFSIZE

    def send(self, data: bytes) -> bool:
        """Write as much as the kernel takes now and keep the rest; return whether all is written."""
        return self._send_sealed(data if self._tls is None else self._tls.encrypt(data))

    def send_rest(self) -> bool:
        """Write more of what is kept; return whether all is written. Raises `OSError` for a broken connection."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                return False
        self._unsent = None
        return True

    @property
    def writing(self) -> bool:
        """Whether some of what was sent waits to be written."""
        return self._unsent is not None

    def drop_unsent(self) -> None:
        """Give up writing: the engine takes no more."""
        self._unsent = None

    def is_alive(self) -> bool:
        """Whether an idle connection is still open and silent."""
        try:
            if self._tls is None:
                self._sock.recv(1, socket.MSG_PEEK)
                return False
            return not self.receive()
        except BlockingIOError:
            return True
        except (EOFError, OSError):
            return False

    def close(self) -> None:
        """Close the socket; one inherited through fork is closed here and stays open in its owner."""
        self._sock.close()

    def _decrypt(self, tls: TlsLayer, cipher: bytes) -> bytes:
        tls.take(cipher)
        plain = tls.decrypt()
        if self._unsent is None and tls.has_output:
            self._send_sealed(tls.encrypt(b""))
        return plain

    def _send_sealed(self, data: bytes) -> bool:
        self._unsent = memoryview(data if self._unsent is None else bytes(self._unsent) + data)
        return self.send_rest()
