"""
The sockets between master and workers: what comes in is bounded and checked before Locust reads it.

Locust's loop that hears its workers ends at the first bytes that are not a message: the master is deaf from then on.
"""

from locust.exception import RPCError
from locust.rpc import Message, zmqrpc

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from llmload.loadgen import options
from llmload.loadgen.cluster import cluster_token, secure, watch_handshakes
from llmload.loadgen.locust_messages import FROM_MASTER, FROM_WORKER, Appetite, check_data
from llmload.loadgen.messages import MAX_WORKERS, ignore
from llmload.loadgen.wire import MAX_FRAME_BYTES, check_packed, printable

MAX_TYPE: Final = 64
MAX_WHY: Final = 400
MAX_LOGGED: Final = 20
"""Messages of strangers that are logged; the rest is dropped without a line."""
FORGOTTEN_S: Final = 120.0
"""A worker that has said nothing for so long makes room for another."""
_FRAMES: Final = 2
_BEFORE_READY: Final = ("client_ready", "locustfile")

logger = logging.getLogger(__name__)


def message_of(packed: bytes) -> Any:
    """Return Locust's message in a frame; ValueError if there is none."""
    check_packed(packed)
    try:
        message = Message.unserialize(packed)
    except Exception as error:  # noqa: BLE001 - whatever Locust's own reader raises, it is not a message
        raise ValueError(f"the message cannot be read: {type(error).__name__}") from None
    kind = message.type
    if not isinstance(kind, str) or not kind.isprintable() or not 0 < len(kind) <= MAX_TYPE:
        raise ValueError("the message has no type")
    return message


def _message_from(sender: str, frames: Sequence[bytes]) -> Any:
    if not sender.isprintable() or not sender or len(frames) != _FRAMES:
        raise ValueError(f"{len(frames)} frames are not a worker's message")
    message = message_of(frames[1])
    if message.node_id != sender:
        raise ValueError(f"it speaks for {str(message.node_id)[:100]!r}")
    return message


class _Known:
    """A worker that has said it is ready."""

    def __init__(self) -> None:
        self.since_s = self.heard_s = time.monotonic()
        self.appetite = Appetite()


class MasterDoor:
    """
    Lets in the messages that a worker may send, and puts a worker out for ever that sends another.

    `refuse` is called with a worker's name and why; a stranger's messages are dropped.
    """

    def __init__(self) -> None:
        self.refuse: Callable[[str, str], None] = ignore
        self._known: dict[str, _Known] = {}
        self._out: dict[str, None] = {}
        self._logged = 0

    def admit(self, frames: Sequence[bytes]) -> tuple[str, Any] | None:
        """Return the sender and the message in frames from ZeroMQ; None where it is not for Locust."""
        sender = frames[0].decode("utf-8", "backslashreplace") if frames else ""
        if sender in self._out:
            return None
        try:
            message = _message_from(sender, frames)
            return (sender, message) if self._takes(sender, message.type, message.data) else None
        except ValueError as error:
            self._turn_away(sender, str(error))
            return None

    def _takes(self, sender: str, kind: str, data: Any) -> bool:
        if kind in FROM_WORKER:
            try:
                check_data(FROM_WORKER[kind], data)
            except ValueError as error:
                raise ValueError(f"{kind}: {error}") from None
        if kind == "client_ready" and sender not in self._known:
            self._meet(sender)
        known = self._known.get(sender)
        if known is None:
            return kind in _BEFORE_READY
        known.heard_s = time.monotonic()
        if kind == "logs" and data["worker_id"] != sender:
            raise ValueError("logs: worker_id is another's")
        try:
            return known.appetite.takes(kind, data, known.heard_s - known.since_s)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{kind}: {error}") from None

    def _meet(self, sender: str) -> None:
        if len(self._known) >= MAX_WORKERS:
            longest = min(self._known, key=lambda each: self._known[each].heard_s)
            if time.monotonic() - self._known[longest].heard_s < FORGOTTEN_S:
                raise ValueError(f"there are {MAX_WORKERS} workers already")
            del self._known[longest]
        self._known[sender] = _Known()

    def _turn_away(self, sender: str, why: str) -> None:
        if sender in self._known:
            self.put_out(sender, why)
        elif self._logged < MAX_LOGGED:
            self._logged += 1
            ignore(ascii(sender)[:100], why)

    def put_out(self, worker: str, why: str) -> None:
        """Hear a worker no longer, and say why, once."""
        if worker in self._out:
            return
        self._known.pop(worker, None)
        self._out[worker] = None
        if len(self._out) > MAX_WORKERS:
            del self._out[next(iter(self._out))]
        self.refuse(worker, printable(why)[:MAX_WHY])


class WorkerDoor:
    """Lets in the messages that a master may send; another is dropped, with a line in the log."""

    def __init__(self) -> None:
        self._logged = 0

    def admit(self, packed: bytes) -> Any:
        """Return the message in a frame from ZeroMQ; None where it is not for Locust."""
        try:
            message = message_of(packed)
            if message.type in FROM_MASTER:
                check_data(FROM_MASTER[message.type], message.data)
        except ValueError as error:
            if self._logged < MAX_LOGGED:
                self._logged += 1
                ignore("the master", str(error))
            return None
        if message.type == "spawn":
            own = options.own_options()
            given = message.data["parsed_options"]
            message.data["parsed_options"] = {name: value for name, value in given.items() if name not in own}
        return message


MASTER_DOOR: Final = MasterDoor()
"""Of this process, if it is a master; Locust may make its socket again."""


def guard_sockets() -> None:
    """Let all sockets that Locust makes in this process from now on be bounded, checked, and secured by the token."""
    base: Any = zmqrpc.BaseSocket
    token = cluster_token()
    make = getattr(base, "made_by_locust", base.__init__)
    door = WorkerDoor()

    def made(self: Any, sock_type: int, ipv4_only: bool) -> None:
        make(self, sock_type, ipv4_only)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        if token is not None:
            secure(self.socket, token)
        watch_handshakes(self.socket)

    def recv_from_client(self: Any) -> tuple[str, Any]:
        while True:
            admitted = MASTER_DOOR.admit(_received(self.socket.recv_multipart))
            if admitted is not None:
                return admitted

    def recv(self: Any) -> Any:
        while True:
            message = door.admit(_received(self.socket.recv))
            if message is not None:
                return message

    base.made_by_locust, base.__init__ = make, made
    base.recv_from_client, base.recv = recv_from_client, recv


def _received(receive: Callable[[], Any]) -> Any:
    """Return what a socket receives; RPCError, at which Locust makes the socket again."""
    try:
        return receive()
    except zmq.ZMQError as error:
        raise RPCError("ZMQ network broken") from error
