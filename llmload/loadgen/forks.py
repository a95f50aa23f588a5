"""Locust's `--processes`: a port of the run's own, and workers that end with the process that forked them."""

from locust.argument_parser import LocustArgumentParser

import errno
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from llmload.errors import ConfigError
from llmload.loadgen.options import parsed_ahead
from llmload.loadgen.ports import UNSET, check_ports
from llmload.parent import signal_at_end_of
from llmload.scenario.options import LOOPBACK

PARENT_GONE: Final = signal.SIGUSR2
"""What a forked worker gets when the process that forked it ends; it ends one that has not yet met its master."""


class Forks:
    """What comes before Locust forks and binds the master's port; made once a process."""

    def __init__(self) -> None:
        self._parent: int | None = None
        self._only_waits = False
        self._held: socket.socket | None = None
        self._port: int | None = None
        """The run's own; the web UI reads the options again with every page, after Locust has bound it."""
        self._looked = False
        """Whether the master's port was found free, before Locust has bound it."""

    def prepare(self, parser: LocustArgumentParser) -> None:
        """
        Give a run with `--processes` a free port where the user sets none, and tie its workers to this process.

        ConfigError where another program listens on the master's port: workers must not join another run's master.
        """
        locusts_own: int = parser.get_default("master_port")
        parser.set_defaults(master_port=UNSET, master_bind_port=UNSET)
        parsed = parsed_ahead(parser)
        if parsed is not None:
            check_ports(parsed)
        port: int | None = UNSET if parsed is None else parsed.master_bind_port or parsed.master_port
        if parsed is None or parsed.worker or not parsed.processes:
            parser.set_defaults(master_port=locusts_own, master_bind_port=locusts_own)
        else:
            port = port or self._own_port()
            parser.set_defaults(master_port=port, master_bind_port=port)
        if parsed is not None and not self._looked and not parsed.worker and (parsed.processes or parsed.master):
            self._looked = True
            _refuse_taken(parsed.master_bind_host, parsed.master_bind_port or port or locusts_own)
        if parsed is not None and parsed.processes and self._parent is None:
            self._parent = os.getpid()
            self._only_waits = bool(parsed.worker)
            os.register_at_fork(after_in_child=self._in_child, after_in_parent=self._in_parent)

    def over(self) -> None:
        """Note that Locust has forked its workers and bound its port."""
        self._parent = None
        if self._held is not None:
            self._held.close()

    def _in_child(self) -> None:
        if self._parent is not None:
            signal_at_end_of(self._parent, PARENT_GONE)
            self._parent = None

    def _in_parent(self) -> None:
        """Let a parent that only waits for its workers pass on to them what asks it to end."""
        if self._parent is not None and self._only_waits:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _to_children)

    def _own_port(self) -> int:
        """Return a port that the kernel gives to nobody else until Locust has bound it."""
        if self._port is None:
            self._held = _reusable()
            self._held.bind((LOOPBACK, 0))
            self._port = int(self._held.getsockname()[1])
        return self._port


def _to_children(number: int, _: FrameType | None) -> None:
    own = os.getpid()
    for child in map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split()):
        with suppress(ProcessLookupError):
            os.kill(child, number)


def _refuse_taken(host: str, port: int) -> None:
    with _reusable() as probe:
        try:
            with suppress(socket.gaierror):  # Locust reports a host that does not exist
                probe.bind(("" if host == "*" else host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"command line: --master-bind-host {host}: {error.strerror}") from None
            raise ConfigError(
                f"command line: --master-bind-port {port}: is taken on {host}, perhaps by another master: give another"
            ) from None


def _reusable() -> socket.socket:
    """Return a socket on whose port another may listen, as ZeroMQ's does, while this one does not."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made
