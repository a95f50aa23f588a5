"""The wall clock may jump; arrivals on the monotonic clock do not."""

import numpy as np
import pytest

from llmload.client.clock import ReceiveClock

MS = 1_000_000
EPOCH = 1_700_000_000_000 * MS


class Machine:
    """A machine whose clocks are turned by hand; reading one takes 100 ns."""

    def __init__(self) -> None:
        self.now_ns = 5_000 * MS
        self.wall_ahead_ns = EPOCH

    def monotonic(self) -> int:
        self.now_ns += 100
        return self.now_ns

    def realtime(self) -> int:
        self.now_ns += 100
        return self.now_ns + self.wall_ahead_ns

    def stamp(self) -> int:
        return self.now_ns + self.wall_ahead_ns


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_stamps_are_converted_to_the_monotonic_clock(machine: Machine) -> None:
    clock = ReceiveClock(machine.monotonic, machine.realtime)
    stamp, arrived_ns = machine.stamp(), machine.now_ns
    machine.now_ns += 3 * MS
    clock.sample()

    assert clock.monotonic_ns(stamp) == pytest.approx(arrived_ns, abs=300)


@pytest.mark.parametrize("step_ms", [-3_600_000, -500, -5, 5, 500, 3_600_000])
def test_a_step_of_the_wall_clock_does_not_falsify_arrivals(machine: Machine, step_ms: int) -> None:
    clock = ReceiveClock(machine.monotonic, machine.realtime)
    true_ns, read_ns = [], []
    for turn in range(20):
        stamps = []
        for part in range(4):
            machine.now_ns += MS // 4
            if (turn, part) == (10, 2):
                machine.wall_ahead_ns += step_ms * MS
            stamps.append(machine.stamp())
            true_ns.append(machine.now_ns)
        clock.sample()
        read_ns += [clock.monotonic_ns(stamp) for stamp in stamps]

    assert read_ns == pytest.approx(true_ns, abs=1_000)


@pytest.mark.parametrize("step_ms", [-3_600_000, -500, -40, 40, 500, 3_600_000])
@pytest.mark.parametrize("behind", [0, 1, 12, 24, 25])
def test_a_step_within_a_long_batch_moves_no_stamp_before_or_behind_it(
    machine: Machine, step_ms: int, behind: int
) -> None:
    """The packet ring's stamps are converted a quarter of a second after they were taken, many at a time."""
    clock = ReceiveClock(machine.monotonic, machine.realtime)
    true_ns, read_ns = [], []
    for batch in range(3):
        stamps = []
        for part in range(26):
            machine.now_ns += 5 * MS
            if (batch, part) == (1, behind):
                machine.wall_ahead_ns += step_ms * MS
            machine.now_ns += 5 * MS
            if part < 25:
                stamps.append(machine.stamp())
                true_ns.append(machine.now_ns)
        clock.sample()
        read_ns += clock.monotonic_stamps_ns(np.array(stamps)).tolist()

    assert read_ns == pytest.approx(true_ns, abs=1_000)


@pytest.mark.parametrize("step_ms", [-3_000, -40, 40, 3_000])
def test_a_step_before_a_batch_moves_none_of_its_stamps(machine: Machine, step_ms: int) -> None:
    """A process that was stopped, or had nothing to read, looks at the clocks long after they parted."""
    clock = ReceiveClock(machine.monotonic, machine.realtime)
    machine.now_ns += 2_000 * MS
    machine.wall_ahead_ns += step_ms * MS
    machine.now_ns += 2_000 * MS
    stamps, true_ns = [], []
    for _ in range(20):
        machine.now_ns += 10 * MS
        stamps.append(machine.stamp())
        true_ns.append(machine.now_ns)
    clock.sample()

    assert clock.monotonic_stamps_ns(np.array(stamps)).tolist() == pytest.approx(true_ns, abs=1_000)


def test_gaps_are_the_kernels_to_the_nanosecond_while_nothing_steps(machine: Machine) -> None:
    clock = ReceiveClock(machine.monotonic, machine.realtime)
    gaps = []
    for _ in range(50):
        first = machine.stamp()
        clock.sample()
        before_ns = clock.monotonic_ns(first)
        machine.now_ns += 7_777
        second = machine.stamp()
        clock.sample()
        gaps.append(clock.monotonic_ns(second) - before_ns - (second - first))

    assert set(gaps) == {0}


def test_a_step_while_nothing_is_read_does_not_matter(machine: Machine) -> None:
    clock = ReceiveClock(machine.monotonic, machine.realtime)
    machine.wall_ahead_ns += 10_000 * MS
    clock.restart()
    stamp, arrived_ns = machine.stamp(), machine.now_ns
    clock.sample()

    assert not clock.stepped
    assert clock.monotonic_ns(stamp) == pytest.approx(arrived_ns, abs=300)
