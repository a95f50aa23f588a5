"""The kernel's packet ring, on real loopback connections; skipped where this process has no right to one."""

import errno
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import cast
from unittest.mock import Mock

import gevent
import gevent.socket
import pytest

from llmload.client import dialer, local_ports, packet_reads, transport
from llmload.client.clock import ReceiveClock
from llmload.client.connection import Connection
from llmload.client.engine_pace import EnginePace, Phase
from llmload.client.http_response import Response
from llmload.client.local_ports import LocalPorts
from llmload.client.loop import Loop
from llmload.client.packet_filter import SNAP_BYTES, Instruction, PortRange, program
from llmload.client.packet_filter import notices as notices_program
from llmload.client.packet_notices import PacketNotices
from llmload.client.packet_reads import PacketReads
from llmload.client.packet_ring import FIN, RST, SYN, PacketRing, RingUnavailableError, Segments, tcp_offset
from llmload.client.packet_tap import PacketTap
from llmload.client.reactor import Reactor
from llmload.client.reads import NOTICED, TICK_S, Stream
from llmload.record import StampSource
from llmload.units import NS_PER_S
from tests.best_stamps import BEST_STAMPS

needs_ring = pytest.mark.skipif(BEST_STAMPS is not StampSource.PACKET, reason="needs CAP_NET_RAW")
FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


@pytest.fixture
def ring() -> Iterator[PacketRing]:
    with closing(PacketRing(1 << 20)) as opened:
        yield opened


def listening(address: str) -> socket.socket:
    server = socket.socket(FAMILIES[address])
    server.bind((address, 0))
    server.listen()
    return server


def pair(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(server.getsockname()[:2])
    accepted, _ = server.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, accepted


def exchange(engine: socket.socket, client: socket.socket, data: bytes) -> None:
    engine.sendall(data)
    assert client.recv(len(data), socket.MSG_WAITALL) == data


def taken(ring: PacketRing) -> tuple[list[int], Segments]:
    """Return the local port of each segment that has come, and the segments."""
    while ring.look():
        pass
    ports, segments = ring.take_all()
    return ports.tolist(), segments


@needs_ring
@pytest.mark.parametrize("address", FAMILIES)
def test_both_directions_of_a_connection_once_each(ring: PacketRing, address: str) -> None:
    with listening(address) as server:
        ring.admit([server.getsockname()[:2]], [])
        client, engine = pair(server)
        with client, engine:
            local_port = client.getsockname()[1]
            client.sendall(b"GET /")
            assert engine.recv(5, socket.MSG_WAITALL) == b"GET /"
            for length in (3, 4):
                exchange(engine, client, bytes(length))
        ports, seen = taken(ring)

    assert set(ports) == {local_port}
    sent, received = seen.where(seen.sent), seen.where(~seen.sent)
    assert [length for length in sent.length.tolist() if length] == [5]
    assert [length for length in received.length.tolist() if length] == [3, 4]
    assert received.flags[0] & SYN
    assert (received.flags & FIN).any()
    data = received.where(received.length > 0)
    assert data.sequence[1] - data.sequence[0] == 3
    assert (data.stamp_ns[1:] > data.stamp_ns[:-1]).all()


@needs_ring
def test_others_do_not_pass(ring: PacketRing) -> None:
    """Another engine, another port of the client's, and this engine's connections with somebody else."""
    with listening("127.0.0.1") as server, listening("127.0.0.1") as other:
        first, last = 61_000, 61_001
        ring.admit([server.getsockname()[:2]], [(first, last)])
        for each in (server, other):
            client, engine = pair(each)
            with client, engine:
                exchange(engine, client, b"abc")
        assert taken(ring)[0] == []


@needs_ring
def test_a_reset_is_seen_and_by_whom(ring: PacketRing) -> None:
    with listening("127.0.0.1") as server:
        ring.admit([server.getsockname()[:2]], [])
        client, engine = pair(server)
        with client:
            engine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            engine.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        _, seen = taken(ring)

    assert [bool(flags & RST) for flags in seen.where(~seen.sent).flags.tolist()] == [False, True]


@needs_ring
def test_the_ring_begins_again_at_its_end_and_counts_what_it_has_no_room_for(ring: PacketRing) -> None:
    with listening("127.0.0.1") as server:
        ring.admit([server.getsockname()[:2]], [])
        client, engine = pair(server)
        lengths: list[int] = []
        with client, engine:
            for _ in range(3):
                for _ in range(ring.capacity // 2):
                    exchange(engine, client, b"a")
                _, seen = taken(ring)
                lengths += [length for length in seen.where(~seen.sent).length.tolist() if length]
            assert lengths == [1] * (ring.capacity // 2 * 3)
            assert ring.count_drops() == 0
            for _ in range(ring.capacity + 100):
                exchange(engine, client, b"a")
            assert ring.count_drops() >= 100
            assert len(taken(ring)[0]) == ring.capacity


@needs_ring
@pytest.mark.parametrize("address", FAMILIES)
def test_a_connection_takes_its_own_segments_once_and_leaves_the_others(ring: PacketRing, address: str) -> None:
    """Also where they lie around the ring's end."""
    with listening(address) as server, ExitStack() as opened:
        ring.admit([server.getsockname()[:2]], [])
        pairs = [pair(server) for _ in range(2)]
        for each in (end for both in pairs for end in both):
            opened.enter_context(each)
        own, other = (client.getsockname()[1] for client, _ in pairs)
        for _ in range(ring.capacity // 4):
            exchange(pairs[0][1], pairs[0][0], b"a")
        taken(ring)
        lengths: dict[int, list[int]] = {own: [], other: []}
        for length in range(1, ring.capacity * 5 // 12):
            for client, engine in pairs:
                exchange(engine, client, bytes(length % 7 + 1))
                lengths[client.getsockname()[1]].append(length % 7 + 1)
        while ring.look():
            pass
        before = ring.seen
        mine = ring.take(own)
        assert mine is not None
        assert mine.length[~mine.sent].tolist() == lengths[own]
        assert ring.take(own) is None
        assert (ring.seen, ring.take(9)) == (before, None)
        ports, rest = ring.take_all()
    assert set(ports.tolist()) == {other}
    assert rest.length[~rest.sent].tolist() == lengths[other]
    assert ring.waiting == 0


@needs_ring
@pytest.mark.parametrize("address", FAMILIES)
def test_what_may_be_an_answers_last_is_noticed_and_nothing_else(address: str) -> None:
    with closing(PacketNotices()) as notices, listening(address) as server:
        notices.admit([server.getsockname()[:2]], [])
        client, engine = pair(server)
        with client:
            port = client.getsockname()[1]
            client.sendall(b"GET /")
            assert engine.recv(5, socket.MSG_WAITALL) == b"GET /"
            for usual, seen in ((None, [7, 10, 90]), ((8, 80), [7, 90]), ((8, 90), [7])):
                notices.pass_over(usual)
                for length in (7, 10, 90):
                    exchange(engine, client, bytes(length))
                assert notices.look() == [(port, length) for length in seen]
                assert notices.look() == []
            engine.close()
            assert client.recv(1) == b""
            assert notices.look() == [(port, 0)], "the end of the connection"


@needs_ring
def test_notices_wrap_and_drop_what_has_no_room() -> None:
    with closing(PacketNotices()) as notices, listening("127.0.0.1") as server:
        notices.admit([server.getsockname()[:2]], [])
        client, engine = pair(server)
        with client, engine:
            for count, seen in ((3_000, 3_000), (5_000, 4_096), (10, 10)):
                for _ in range(count):
                    exchange(engine, client, b"a")
                assert len(notices.look()) == seen


@needs_ring
def test_as_many_engines_as_fit_and_a_clear_error_beyond(ring: PacketRing) -> None:
    ring.admit([(f"10.0.0.{number}", 8000) for number in range(1, 33)], [(40_000, 41_023)])
    with pytest.raises(RingUnavailableError, match="400 engine addresses"):
        ring.admit([(f"10.0.{number // 200}.{number % 200}", 8000) for number in range(400)], [(40_000, 41_023)])


def run(instructions: list[Instruction], packet: bytes, *, protocol: int = 0x0800, outgoing: bool = False) -> int:
    """Run a classic BPF program as the kernel does."""
    ancillary = {0xFFFFF000: protocol, 0xFFFFF004: 4 if outgoing else 0}
    a = x = at = stored = 0
    while True:
        code, jt, jf, k = instructions[at]
        at += 1
        sizes = {0x20: 4, 0x28: 2, 0x30: 1, 0x48: 2, 0x50: 1}
        if code in sizes:
            where = k + (x if code in (0x48, 0x50) else 0)
            piece = packet[where : where + sizes[code]]
            if k not in ancillary and len(piece) < sizes[code]:
                return 0
            a = ancillary.get(k, int.from_bytes(piece, "big"))
        elif code in (0xB1, 0x01, 0x61):
            x = {0xB1: (packet[k] & 15) * 4, 0x01: k, 0x61: stored}[code]
        elif code == 0x02:
            stored = a
        elif code in (0x1C, 0x54, 0x74):
            a = {0x1C: a - x, 0x54: a & k, 0x74: a >> k}[code] % 2**32
        elif code == 0x05:
            at += k
        elif code == 0x06:
            return k
        else:
            true = {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: bool(a & k)}[code]
            at += jt if true else jf


def ipv4(
    source: str, destination: str, ports: tuple[int, int], *, flags: int = 16, options: int = 0, **odd: int
) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45 + options, 0, 52, 0, odd.get("fragment", 0), 64, odd.get("protocol", 6), 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return (
        head + addresses + bytes(4 * options) + struct.pack("!HHIIBBH", *ports, 1, 2, 0x80, flags, odd.get("window", 9))
    )


ENGINES = [("10.0.0.1", 8000), ("10.0.0.2", 9000), ("2001:db8::1", 8000)]
CODE = program(ENGINES, [(40_000, 40_999), (50_000, 50_099)])
PUSH = 24


@pytest.mark.parametrize(
    ("packet", "outgoing", "passes"),
    [
        (ipv4("10.0.0.1", "10.9.9.9", (8000, 40_500)), False, True),
        (ipv4("10.0.0.2", "10.9.9.9", (9000, 50_099)), False, True),
        (ipv4("10.0.0.1", "10.9.9.9", (8000, 40_500), options=3), False, True),
        (ipv4("10.0.0.1", "10.9.9.9", (9000, 40_500)), False, False),
        (ipv4("10.0.0.3", "10.9.9.9", (8000, 40_500)), False, False),
        (ipv4("10.0.0.1", "10.9.9.9", (8000, 41_000)), False, False),
        (ipv4("10.0.0.1", "10.9.9.9", (8000, 39_999)), False, False),
        (ipv4("10.0.0.1", "10.9.9.9", (8000, 40_500), protocol=17), False, False),
        (ipv4("10.0.0.1", "10.9.9.9", (8000, 40_500), fragment=185), False, False),
        (ipv4("10.9.9.9", "10.0.0.1", (40_500, 8000), flags=PUSH), True, True),
        (ipv4("10.9.9.9", "10.0.0.1", (40_500, 8000)), True, False),
        (ipv4("10.9.9.9", "10.0.0.1", (40_500, 8000), window=0), True, True),
        (ipv4("10.9.9.9", "10.0.0.1", (40_500, 8001), flags=PUSH), True, False),
        (ipv4("10.0.0.1", "10.9.9.9", (8000, 40_500)), True, False),
    ],
)
def test_the_filter_passes_what_our_connections_say(packet: bytes, outgoing: bool, passes: bool) -> None:
    assert run(CODE, packet, outgoing=outgoing) == (SNAP_BYTES if passes else 0)


def payload(length: int, *, flags: int = 16, options: int = 0) -> bytes:
    """Return the beginning of a segment of an answer, of 36 bytes of TCP header, by IPv4."""
    packet = bytearray(ipv4("10.0.0.1", "10.9.9.9", (8000, 40_500), flags=flags, options=options))
    tcp = 20 + 4 * options
    packet[2:4] = (tcp + 36 + length).to_bytes(2, "big")
    packet[tcp + 12] = 0x9F
    return bytes(packet)


@pytest.mark.parametrize("options", [0, 3])
@pytest.mark.parametrize(
    ("usual", "length", "flags", "noticed"),
    [
        ((100, 200), 99, 16, True),
        ((100, 200), 100, 16, False),
        ((100, 200), 200, 16, False),
        ((100, 200), 201, 16, True),
        ((100, 200), 150, 17, True),
        ((100, 200), 150, 20, True),
        ((100, 200), 0, 16, False),
        ((100, 200), 0, 17, True),
        (None, 1, 16, True),
        (None, 0, 16, False),
    ],
)
def test_the_filter_of_notices_compares_payloads(
    usual: tuple[int, int] | None, length: int, flags: int, noticed: bool, options: int
) -> None:
    code = notices_program(ENGINES, [(40_000, 40_999), (50_000, 50_099)], usual)

    assert run(code, payload(length, flags=flags, options=options)) == (SNAP_BYTES if noticed else 0)
    for other in (
        ipv4("10.0.0.1", "10.9.9.9", (8000, 41_000), flags=17),
        ipv4("10.9.9.9", "10.0.0.1", (40_500, 8000), flags=17),
    ):
        assert run(code, other, outgoing=False) == run(code, other, outgoing=True) == 0


def test_the_filter_of_notices_has_room_for_as_many_engines_as_the_rings_own() -> None:
    """Each engine has its own range of local ports."""
    engines = [(f"10.0.0.{number}", 8000) for number in range(1, 23)]
    ranges = [(30_000 + 1_200 * number, 30_999 + 1_200 * number) for number in range(22)]

    assert len(notices_program(engines, ranges, (100, 200))) < len(program(engines, ranges)) < 4096


def test_the_filter_passes_ipv6_with_and_without_extension_headers() -> None:
    engine, client, tcp = (
        socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
        bytes(15) + b"\x09",
        struct.pack("!HHIIBBHI", 8000, 40_001, 1, 2, 0x80, 16, 9, 0),
    )
    head = struct.pack("!IHBB", 6 << 28, 20, 6, 64)
    extended = struct.pack("!IHBB", 6 << 28, 28, 0, 64)

    assert run(CODE, head + engine + client + tcp, protocol=0x86DD) == SNAP_BYTES
    assert run(CODE, head + client + engine + tcp, protocol=0x86DD) == 0
    packet = extended + engine + client + struct.pack("!BBHI", 6, 0, 0, 0) + tcp
    assert run(CODE, packet, protocol=0x86DD) == SNAP_BYTES
    assert tcp_offset(packet) == 48
    assert run(CODE, head + engine + client + tcp, protocol=0x0806) == 0


def test_odd_packets_have_no_tcp_header() -> None:
    draw = random.Random(1)  # noqa: S311 - not for secrets
    for _ in range(2_000):
        offset = tcp_offset(bytes([0x60, *draw.randbytes(127)]))
        assert offset is None or 40 <= offset < 4_200


A, B = ("127.0.0.1", 8000), ("127.0.0.1", 8001)


def ports_of(ranges: list[PortRange]) -> set[int]:
    return {port for first, last in ranges for port in range(first, last + 1)}


def test_each_process_and_each_engine_has_its_own_local_ports() -> None:
    one, two = LocalPorts(), LocalPorts()
    with closing(one), closing(two):
        for peer in (A, B, A):
            one.claim(peer)
            two.claim(peer)
        assert len(ports_of(one.ranges)) == len(ports_of(two.ranges)) == 3 * 1024
        assert not ports_of(one.ranges) & ports_of(two.ranges)
        first = one.ranges
        one.release(A)
        assert len(ports_of(one.ranges)) == 1024
        one.claim(A)
        two.claim(A)
        assert not ports_of(one.ranges) & ports_of(two.ranges)
        assert first
        while not one.exhausted:
            one.claim(A)
        assert one.ranges == [], "any port, once none is left"


def test_a_port_is_chosen_from_the_engines_range_and_never_one_that_an_engine_listens_on() -> None:
    ports, other = LocalPorts(), LocalPorts()
    with closing(ports), closing(other), listening("127.0.0.1") as server:
        ports.claim(A)
        ports.claim(B)
        first = min(ports_of(ports.ranges))
        chosen = []
        for peer in (A, B):
            with socket.socket() as client:
                ports.limit(client, peer)
                client.connect(server.getsockname())
                chosen.append(client.getsockname()[1])
        if not ports.exhausted:  # a kernel before 6.3
            assert all(port in ports_of(ports.ranges) for port in chosen)
            assert chosen[0] // 1024 != chosen[1] // 1024
        other.claim(A, frozenset({first + 2 * 1024 + 5}))
        assert first + 2 * 1024 + 5 not in ports_of(other.ranges)


def target(address: str, port: int) -> tuple[int, int, int, str, tuple[str, int]]:
    return FAMILIES[address], socket.SOCK_STREAM, 0, "", (address, port)


@needs_ring
@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1", "127.0.0.1"]])
def test_when_a_range_is_used_up_connections_come_from_another_one(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name may have several addresses, as `localhost` has, of which some refuse."""
    monkeypatch.setattr(local_ports, "_BLOCK_PORTS", 4)
    monkeypatch.setattr(dialer, "_addresses", lambda _, port: [target(address, port) for address in addresses])
    with closing(PacketTap()) as tap, listening("127.0.0.1") as server, ExitStack() as opened:
        opener, taps = dialer.Dialer(tap), []
        for _ in range(10):
            connection = opened.enter_context(opener.connect("an.engine", server.getsockname()[1], 5.0))
            taps.append(tap.connected(connection))
        assert None not in taps
        assert len({each.local_port for each in taps if each}) == 10


class NoSourceAddress(gevent.socket.socket):
    """A socket of a host that has no address of this family."""

    def connect(self, address: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")


@needs_ring
def test_no_range_is_claimed_where_the_host_has_no_address_to_send_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without IPv6 the kernel says of every address what it says where ports are used up."""
    monkeypatch.setattr(gevent.socket, "socket", NoSourceAddress)
    monkeypatch.setattr(dialer, "plain_socket", NoSourceAddress)
    with closing(PacketTap()) as tap:
        claims: list[object] = []
        monkeypatch.setattr(tap, "claim_more_ports", claims.append)
        with pytest.raises(OSError, match="Cannot assign"):
            dialer.Dialer(tap).connect("::1", 8000, 5.0)
        assert claims == []


@needs_ring
def test_connections_that_share_a_local_port_are_not_taken_for_one() -> None:
    """Where ports cannot be limited, the kernel gives one to connections with two engines."""
    with closing(PacketTap()) as tap, listening("127.0.0.1") as one, listening("127.0.0.1") as two:
        first, second = socket.socket(), socket.socket()
        with first, second:
            for each, server in ((first, one), (second, two)):
                tap.before_connect(each, server.getsockname())
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("127.0.0.1", 0))
            first.connect(one.getsockname())
            second.bind(first.getsockname())
            second.connect(two.getsockname())
            own = tap.connected(first)
            assert own is not None
            assert tap.connected(second) is None
            own.close()
            again = tap.connected(second)
            assert again is not None


class Reading:
    """A stream of which only the way it is read matters."""

    def __init__(self, connection: Connection, *, patient: bool) -> None:
        self.connection, self.patient = connection, patient
        self.response = Response()
        self.slices = 0

    def decode(self, until_ns: int) -> bool:
        while time.monotonic_ns() < until_ns:
            pass
        self.slices -= 1
        return not self.slices

    def on_notice(self) -> None:
        """Nothing came but the connection's opening."""

    def check_time(self, now_ns: int) -> None:
        """There is no limit."""


@needs_ring
def test_only_answers_that_nobody_waits_for_are_looked_at_rarely() -> None:
    with ExitStack() as opened:
        tap = opened.enter_context(closing(PacketTap()))
        server = opened.enter_context(listening("127.0.0.1"))
        reads, streams = PacketReads(tap), []
        for patient in (True, False):
            sock = opened.enter_context(dialer.Dialer(tap).connect("127.0.0.1", server.getsockname()[1], 5.0))
            connection = Connection(sock, ReceiveClock(), tap=tap.connected(sock))
            streams.append(cast("Stream", Reading(connection, patient=patient)))
        often, rarely = TICK_S, pytest.approx(0.004)

        found = []
        for step, stream in ((reads.watch, 0), (reads.watch, 1), (reads.unwatch, 1)):
            step(streams[stream])
            found.append(reads.period_s())

        assert found == [rarely, often, rarely]


def connected(tap: PacketTap | None, server: socket.socket) -> Connection:
    """Return a connection to the server whose segments are in the ring."""
    assert tap is not None
    sock = dialer.Dialer(tap).connect("127.0.0.1", server.getsockname()[1], 5.0)
    own = tap.connected(sock)
    return Connection(transport._plain_socket(sock), ReceiveClock(), tap=own)


class Ticks:
    """A loop whose timer is let go by hand, and which notes at what intervals it was to call."""

    foreign = False

    def __init__(self) -> None:
        self.intervals: list[float] = []

    def timer(self, every_s: float, callback: Callable[[], None]) -> Mock:
        """Return a timer."""
        self.tick = callback
        return Mock(start=lambda: self.intervals.append(every_s))

    def readable(self, _fd: int, callback: Callable[[], None]) -> Mock:
        """Return a watch, which calls by hand as well: the last is that of notices."""
        self.notice, self.notices = callback, Mock()
        return self.notices


@needs_ring
@pytest.mark.parametrize(("patient", "then"), [(False, [TICK_S, 0.0, 0.0, TICK_S]), (True, [TICK_S, 0.004])])
def test_an_end_that_somebody_waits_for_is_decoded_without_a_pause(patient: bool, then: list[float]) -> None:
    loop = Ticks()
    with ExitStack() as opened:
        reactor = opened.enter_context(closing(Reactor(cast("Loop", loop), "packet")))
        server = opened.enter_context(listening("127.0.0.1"))
        connection = opened.enter_context(closing(connected(reactor.tap, server)))
        stream = Reading(connection, patient=patient)
        reactor.watch(cast("Stream", stream))
        stream.slices = 3
        reactor.decode_later(cast("Stream", stream))
        while stream.slices > 0:
            loop.tick()

        assert loop.intervals == then


class ReadInBulk(EnginePace):
    """An engine that is known, and whose usual chunks have 100 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.phase, self._low, self._high = Phase.BULK, 100, 100


@needs_ring
def test_what_may_end_an_answer_wakes_the_reactor_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_reads, "EnginePace", ReadInBulk)
    loop = Ticks()
    with ExitStack() as opened:
        reactor = opened.enter_context(closing(Reactor(cast("Loop", loop), "packet")))
        server = opened.enter_context(listening("127.0.0.1"))
        assert reactor.tap is not None
        connection = opened.enter_context(closing(connected(reactor.tap, server)))
        stream = Mock(patient=False, connection=connection)
        engine, _ = server.accept()
        opened.enter_context(engine)
        reactor.watch(stream)
        loop.tick()
        assert loop.intervals == [TICK_S, 0.025]
        loop.notices.start.assert_called_once()

        poller = select.poll()
        poller.register(reactor.tap.notices_fd, select.POLLIN)
        engine.sendall(bytes(100))
        assert poller.poll(0) == []
        engine.sendall(b"the end")
        assert [event for _, event in poller.poll(1000)] == [select.POLLIN]
        reactor._ticked_ns = time.monotonic_ns() + NS_PER_S
        loop.notice()
        assert loop.intervals == [TICK_S, 0.025, TICK_S], "not at once: the last tick was just now"
        loop.tick()
        stream.on_bulk.assert_called_once_with(bytes(100) + b"the end", NOTICED)
        assert poller.poll(0) == []
        reactor._ticked_ns = 0
        engine.sendall(b"another")
        loop.notice()
        assert stream.on_bulk.call_count == 2, "at once"


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1", "127.0.0.1"]])
def test_an_engine_of_this_host_is_connected_before_any_other_greenlet_runs(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of users that start together each would wait for the starts of all others, which TTFT would have in it."""
    monkeypatch.setattr(dialer, "_addresses", lambda _, port: [target(address, port) for address in addresses])
    others: list[int] = []
    with listening("127.0.0.1") as server:
        other = gevent.spawn(others.append, 1)
        with dialer.Dialer().connect("an.engine", server.getsockname()[1], 5.0) as sock:
            assert sock.getpeername() == server.getsockname()
            assert others == []
        other.join()
    assert others == [1]
