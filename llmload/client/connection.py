"""An open connection: reads with the kernel's stamp of arrival, writes that never block, and TLS in memory."""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from llmload.client.clock import ReceiveClock
from llmload.client.packet_tap import Tap
from llmload.units import NS_PER_S

_RECORD_BYTES: Final = 16_384
"""The most plain text in a TLS record."""


class TlsLayer:
    """
    One TLS session between encrypted bytes of the network and plain HTTP.

    It never touches a socket, so encrypted bytes are read and stamped like any others.
    """

    __slots__ = ("_incoming", "_outgoing", "_session")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def handshake(self) -> bool:
        """Continue the handshake with the bytes taken so far; return whether it is done. Raises `ssl.SSLError`."""
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def take(self, cipher: bytes) -> None:
        """Take bytes from the network; empty bytes mean the end of the connection."""
        if cipher:
            self._incoming.write(cipher)
        else:
            self._incoming.write_eof()

    def decrypt(self) -> bytes:
        """Return the plain text of all complete records, possibly empty; raises `EOFError` after the last."""
        plain: list[bytes] = []
        session, incoming = self._session, self._incoming
        try:
            while piece := session.read(_RECORD_BYTES):
                if not plain and not incoming.pending and not session.pending():
                    return piece  # nearly always: one record in a read, and nothing after it
                plain.append(piece)
        except ssl.SSLWantReadError:
            return b"".join(plain)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        if plain:
            return b"".join(plain)
        raise EOFError

    @property
    def has_output(self) -> bool:
        """Whether the session has bytes for the network, such as a key update."""
        return self._outgoing.pending > 0

    def encrypt(self, plain: bytes) -> bytes:
        """Return the plain text as records for the network, after the session's own output."""
        if plain:
            self._session.write(plain)
        return self._outgoing.read()


BULK_BYTES: Final = 65_536
_BULK: Final = bytearray(BULK_BYTES)
"""One buffer for all reads in bulk: a new one for each would cost more than the read."""
_BULK_VIEW: Final = memoryview(_BULK)
READ_BYTES: Final = 32_768
_SMALL_BUFSIZE: Final = 479
"""The size of reads after a small one: 479 bytes and the object's header fit pymalloc's 512-byte pool."""
SMALL_READ_BYTES: Final = _SMALL_BUFSIZE - 128
"""A read of fewer bytes than this is small."""

_SO_TIMESTAMPING: Final = 37
_SOF_RX_SOFTWARE: Final = 1 << 3
_SOF_SOFTWARE: Final = 1 << 4
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(48)
timespec: Final = struct.Struct("qq").unpack_from
"""Unpacks a stamp into seconds and nanoseconds."""

Received = tuple[bytes, list[tuple[int, int, bytes]], int, Any]
"""What a socket's `recvmsg` returns."""
Receive = Callable[[int, int], Received]


def enable_timestamps(sock: socket.socket) -> bool:
    """Ask the kernel to stamp what the socket receives; return whether it agreed."""
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

    `arrived_ns` is when the last `receive` arrived (monotonic ns), `stamped` whether the kernel took that stamp.
    """

    __slots__ = (
        "_clock",
        "_recv_into",
        "_sock",
        "_tls",
        "_unsent",
        "arrived_ns",
        "bufsize",
        "drained",
        "fd",
        "received",
        "recvmsg",
        "stamped",
        "tap",
        "used",
    )

    def __init__(
        self,
        sock: socket.socket,
        clock: ReceiveClock,
        tls: TlsLayer | None = None,
        tap: Tap | None = None,
        received: int = 0,
    ) -> None:
        self._sock = sock
        self.tap = tap
        """Its part of the packet ring; None where its reads are stamped."""
        self.received = received
        """How many bytes have come from the network, with those of the tunnel and the handshake."""
        self.recvmsg: Receive = sock.recvmsg
        self._recv_into = sock.recv_into
        self._clock = clock
        self._tls = tls
        self._unsent: memoryview | None = None
        self.bufsize = READ_BYTES
        """How many bytes the next read asks for."""
        self.drained = True
        """Whether the last read took everything that had arrived."""
        self.fd = sock.fileno()
        self.arrived_ns = 0
        self.stamped = False
        self.used = False
        """Whether a request was sent on it before this one."""

    def receive(self) -> bytes:
        """
        Return the bytes that have arrived, at most `READ_BYTES`; with TLS possibly none.

        Raises `BlockingIOError` if nothing has arrived, `EOFError` at the end, `OSError` for a broken connection.
        """
        return self.take(self.recvmsg(self.bufsize, ANCILLARY_BYTES))

    def receive_bulk(self) -> bytes:
        """
        Return the bytes that have arrived, at most `BULK_BYTES`, encrypted if there is TLS; their stamps are in `tap`.

        Raises `BlockingIOError` if nothing has arrived, `EOFError` at the end, `OSError` for a broken connection.
        """
        length = self._recv_into(_BULK)
        if not length:
            raise EOFError
        self.received += length
        return _BULK_VIEW[:length].tobytes()

    def decrypt(self, cipher: bytes) -> bytes:
        """Return the plain text that these bytes complete, the bytes themselves without TLS; raises `EOFError`."""
        return cipher if self._tls is None else self._decrypt(self._tls, cipher)

    @property
    def encrypted(self) -> bool:
        """Whether there is TLS on it."""
        return self._tls is not None

    def take(self, received: Received) -> bytes:
        """Return the bytes of a `recvmsg(bufsize, ANCILLARY_BYTES)`, as `receive` does."""
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
        """Whether reads are small, stamped by the kernel and not encrypted, and so probably the next ones."""
        return self.stamped and self._tls is None and self.bufsize == _SMALL_BUFSIZE

    def send(self, data: bytes) -> bool:
        """Write as much as the kernel takes now and keep the rest; return whether everything is written."""
        return self._send_bytes(data if self._tls is None else self._tls.encrypt(data))

    def send_rest(self) -> bool:
        """Write more of the rest; return whether everything is written. Raises `OSError` for a broken connection."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                return False
        self._unsent = None
        return True

    @property
    def writing(self) -> bool:
        """Whether a rest waits to be written."""
        return self._unsent is not None

    def drop_unsent(self) -> None:
        """Discard the rest: the engine does not take it."""
        self._unsent = None

    def is_alive(self) -> bool:
        """Whether an idle connection is still open and silent."""
        try:
            if self._tls is None:
                self._sock.recv(1, socket.MSG_PEEK)
                return False
            if self.tap is not None:
                pieces, *_ = self.tap.cut(self.receive_bulk(), self.received)
                return not any(map(self.decrypt, pieces))
            return not self.receive()
        except BlockingIOError:
            return True
        except (EOFError, OSError):
            return False

    def close(self) -> None:
        """Close the socket; a socket inherited by fork stays open in the process that opened it."""
        self._sock.close()
        if self.tap is not None:
            self.tap.close()

    def _decrypt(self, tls: TlsLayer, cipher: bytes) -> bytes:
        tls.take(cipher)
        plain = tls.decrypt()
        if self._unsent is None and tls.has_output:
            self._send_bytes(tls.encrypt(b""))
        return plain

    def _send_bytes(self, data: bytes) -> bool:
        self._unsent = memoryview(data if self._unsent is None else bytes(self._unsent) + data)
        return self.send_rest()
