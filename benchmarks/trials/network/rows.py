"""The rows of the trial: what network, engine and client each has, and what must come of it."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from benchmarks.tools.truth_engine.engine import Schedule
from llmload.client.packet_ring import RING_BYTES


class Place(Enum):
    """Where the engine is, seen from the client."""

    LOOPBACK = auto()
    IPV6 = auto()
    VETH = auto()  # another host on the same bridge
    LINK = auto()  # another host behind a bad link


class Through(Enum):
    """What is between client and engine."""

    NOTHING = auto()
    FORWARD = auto()  # a proxy that forwards requests
    TUNNEL = auto()  # a proxy that carries https


USUAL: Final = Schedule(tokens=100, gap_s=0.01, ttft_spread_s=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One trial, and what is different in it."""

    name: str
    place: Place = Place.LOOPBACK
    through: Through = Through.NOTHING
    schedule: Schedule = USUAL
    users: int = 50
    turns: int = 3
    ramp_s: float = 0.5
    engines: int = 1
    clients: int = 1
    tls: bool = False
    delay_s: float = 0.0
    loss: float = 0.0
    reordered: float = 0.0
    ring_bytes: int = RING_BYTES
    stopped_s: float = 0.0
    """The client is stopped (SIGSTOP) for so long once its users run."""
    beside_reader: bool = False
    """The same work is done by a client with stamped reads too, whose figures are those of a prompt reader."""
    nagle: bool | None = None
    """What the client must say of the engine; None: nothing is asked."""
    may_miss: bool = False
    """The ring may miss segments; what it does not miss must be right."""
    turnaround: bool = True
    """The next request of a closed loop must leave soon after the answer's end."""


def _nagle(gap_s: float, tokens: int, pieces: int = 1) -> Schedule:
    return Schedule(tokens=tokens, gap_s=gap_s, ttft_spread_s=0.01, nagle=True, pieces=pieces)


ROWS: Final = (
    Row(name="loopback"),
    Row(name="IPv6", place=Place.IPV6),
    Row(name="two hosts (veth)", place=Place.VETH),
    Row(name="delay 20 ms", place=Place.LINK, delay_s=0.01),
    Row(name="1 % loss, 5 % reordered", place=Place.LINK, delay_s=0.002, loss=0.01, reordered=0.05, turnaround=False),
    Row(name="two engines", engines=2),
    Row(name="two clients", clients=2, users=25),
    Row(name="https", tls=True),
    Row(name="forward proxy", through=Through.FORWARD),
    Row(name="https through a tunnel", through=Through.TUNNEL, tls=True),
    Row(
        name="a connection for each answer",
        schedule=Schedule(tokens=4, gap_s=0.01, ttft_s=0.005, close=True),
        users=20,  # 500 connections/s: as many as a core opens with time to spare
        turns=100,
    ),
    Row(name="Nagle, a chunk in 10 ms", schedule=_nagle(0.01, 300), beside_reader=True, nagle=True),
    Row(name="Nagle, two writes, 10 ms", schedule=_nagle(0.01, 300, 2), beside_reader=True, nagle=True),
    Row(name="Nagle, two writes, 80 ms", schedule=_nagle(0.08, 50, 2), beside_reader=True),  # slow: read promptly
    Row(name="Nagle, one user", schedule=_nagle(0.01, 300), users=1, turns=6, beside_reader=True, nagle=True),
    Row(name="three chunks a segment", schedule=Schedule(tokens=99, burst=3, ttft_spread_s=0.01), nagle=False),
    Row(name="chunks of 16 kB", schedule=Schedule(tokens=100, gap_s=0.02, chunk_bytes=16_000), users=20),
    Row(name="small ring", ring_bytes=1 << 20),
    Row(name="small ring, stopped for 3 s", ring_bytes=1 << 20, stopped_s=3.0, may_miss=True, turnaround=False),
    Row(name="stopped for 3 s", stopped_s=3.0, turnaround=False),
    Row(
        name="10,000 streams of 2 tok/s",
        schedule=Schedule(tokens=12, gap_s=0.5, ttft_spread_s=0.04),
        users=9_500,
        turns=2,
        ramp_s=20.0,
    ),
)
