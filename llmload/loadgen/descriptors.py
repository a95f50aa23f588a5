"""Open files: as many as the system lets a process have, and whether they are enough for its users."""

import logging
import os
import resource
from contextlib import suppress
from typing import Final

from llmload.errors import ConfigError
from llmload.loadgen.session import WorkerShard
from llmload.scenario.load_protocol import Load

OWN: Final = 32
"""Open files that a process needs beside its connections and what it has open at its start."""

logger = logging.getLogger(__name__)


def raise_limit() -> None:
    """Let this process have as many open files as it may: Locust asks for 10,000, and for none where it may not."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check_descriptors(load: Load, shard: WorkerShard) -> None:
    """
    Raise ConfigError where this process may not have as many connections as its users need.

    A warning where an open loop may need more than that: how many are in flight is not known before.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return
    room = max(0, limit - OWN - len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - names alone
    users, in_flight = load.most_users, shard.of(load.in_flight_limit) or 0
    if users is not None and (shard.of(users) or 0) > room:
        share = "" if shard.count == 1 else f" ({shard.of(users)} in each of {shard.count} processes)"
        fitting = [f"--processes {-(-users // room)}", f"--users {room * shard.count}"] if room else []
        raise ConfigError(
            f"load: {users} users{share} need a connection each, and this process may open {room} beside its own files "
            f"(ulimit -n is {limit}): raise it with ulimit -n {_round(limit - room + (shard.of(users) or 0))}"
            f"{''.join(f', or give {option}' for option in fitting)}"
        )
    if load.is_open_loop and in_flight > room:
        logger.warning(
            "ulimit -n is %d: of max_in_flight = %d requests %d can have a connection; those beyond fail",
            limit,
            in_flight,
            room,
        )


def _round(count: int) -> int:
    """Return the next thousand, for people."""
    return -(-count // 1000) * 1000
