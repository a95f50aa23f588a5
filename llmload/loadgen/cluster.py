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

from llmload.errors import ConfigError

TOKEN_ENV: Final = "LLMLOAD_CLUSTER_TOKEN"  # noqa: S105 - the variable's name
LEAST_CHARACTERS: Final = 16
"""A shorter token could be guessed from a recorded handshake."""
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1, "dklen": 32, "salt": b"llmload master and workers"}
_FAILED: Final = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL

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
    """Say once, in the log, that another node cannot be talked to for want of the same token."""
    who = "a worker" if socket.type == zmq.ROUTER else "the master"
    gevent.spawn(_watch, socket.get_monitor_socket(_FAILED | zmq.EVENT_MONITOR_STOPPED), who)


def _watch(monitor: Any, who: str) -> None:
    said = False
    while recv_monitor_message(monitor)["event"] != zmq.EVENT_MONITOR_STOPPED:
        if not said:
            said = True  # ZeroMQ tries again, several times a second
            logger.warning(
                "%s cannot be talked to: it has another %s, or only one of both has one",
                who,
                TOKEN_ENV,
            )
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
