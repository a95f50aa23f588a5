"""
The token that master and workers share: with it their sockets are encrypted, and each proves that it knows it.

CURVE of ZeroMQ (https://rfc.zeromq.org/spec/26/) does all of that in the handshake, before any message is read. Its
keys are derived from the token: only who knows it can derive the master's public key, without which CURVE lets no
worker in, and the secret one, without which no worker takes a master for its own. The token itself is never sent.
"""

import hashlib
import ipaddress
import logging
import os
from functools import cache
from typing import Any, Final

import gevent
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from llmload.errors import ConfigError, ExitCode
from llmload.loadgen.ending import say

TOKEN_ENV: Final = "LLMLOAD_CLUSTER_TOKEN"  # noqa: S105 - the variable's name
LEAST_CHARACTERS: Final = 16
"""A shorter token could be guessed from a recorded handshake."""
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1, "dklen": 32, "salt": b"llmload master and workers"}
_REFUSED: Final = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
"""The other side wants a token, or none, or has another."""

logger = logging.getLogger(__name__)


def cluster_token() -> str | None:
    """Return the token that the environment has; None without one; ConfigError if it cannot protect anything."""
    token = os.environ.get(TOKEN_ENV)
    if token is None:
        return None
    token = token.strip()  # a file's last line ends
    if len(token) < LEAST_CHARACTERS:
        raise ConfigError(
            f"{TOKEN_ENV}: has fewer than {LEAST_CHARACTERS} characters: export {TOKEN_ENV}=$(openssl rand -hex 32), "
            "the same for the master and its workers"
        )
    if not zmq.has("curve"):
        raise ConfigError(f"{TOKEN_ENV}: ZeroMQ here has no CURVE to protect messages with: pip install pyzmq")
    return token


@cache
def _master_keys(token: str) -> tuple[bytes, bytes]:
    secret = z85.encode(hashlib.scrypt(token.encode(), **_SCRYPT))  # type: ignore[arg-type]  # its own options
    return zmq.curve_public(secret), secret


def secure(socket: Any, token: str) -> None:
    """Let a socket of Locust's, not bound or connected yet, talk only to those that have the token."""
    public, secret = _master_keys(token)
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
    else:
        socket.setsockopt(zmq.CURVE_SERVERKEY, public)
        public, secret = zmq.curve_keypair()  # of this worker alone
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)


def watch_handshakes(socket: Any) -> None:
    """
    Say once, in the log, that another node cannot be talked to for want of the same token.

    Where only one of both has a token, a worker ends with exit code 2: ZeroMQ does not try that again.
    """
    is_worker, failures = socket.type != zmq.ROUTER, _REFUSED | zmq.EVENT_MONITOR_STOPPED
    if is_worker:  # a master that refuses it may just hang up; on a master, a probe or a scanner does
        failures |= zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    gevent.spawn(report_failures, socket.get_monitor_socket(failures), is_worker=is_worker)


def report_failures(monitor: Any, *, is_worker: bool) -> None:
    """Read a socket's monitor until the socket is closed; SystemExit where a worker can try no more."""
    who, said = "the master" if is_worker else "a worker", False
    text = f"{who} cannot be talked to: it has another {TOKEN_ENV}, or only one of both has one"
    while (event := recv_monitor_message(monitor)["event"]) != zmq.EVENT_MONITOR_STOPPED:
        if event == _REFUSED and is_worker:
            say(text)
            raise SystemExit(ExitCode.WRONG_USE)
        if not said:
            said = True  # ZeroMQ tries again, several times a second
            logger.warning("%s", text)
    monitor.close()


def warn_if_open(host: str, port: int) -> None:
    """Warn, in the log, where a master without a token listens for more than this machine."""
    if cluster_token() is None and not _is_loopback(host):
        logger.warning(
            "all who reach %s:%s may join this run and read its scenario: set %s, the same for master and workers",
            host,
            port,
            TOKEN_ENV,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
