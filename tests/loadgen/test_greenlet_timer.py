"""A greenlet that sleeps by the timer wakes on time, well within the event loop's millisecond."""

import statistics
import time
from collections.abc import Iterator

import gevent
import pytest

from llmload.loadgen.open_loop import GreenletTimer

US = 1_000


@pytest.fixture
def timer() -> Iterator[GreenletTimer]:
    timer = GreenletTimer()
    yield timer
    timer.close()


def late_us(timer: GreenletTimer, wait_us: int) -> float:
    due_ns = time.monotonic_ns() + wait_us * US
    timer.sleep_until(due_ns)
    return (time.monotonic_ns() - due_ns) / US


def test_it_wakes_within_the_millisecond_and_never_early(timer: GreenletTimer) -> None:
    late = [late_us(timer, wait_us) for wait_us in (100, 250, 400, 1_300) * 20]

    assert min(late) >= 0
    assert statistics.median(late) < 400, "an event loop's timer takes the rest of a millisecond"


def test_others_run_meanwhile(timer: GreenletTimer) -> None:
    ran: list[float] = []

    def run() -> None:
        for pause_s in (0.001, 0.002, 0.003):
            gevent.sleep(pause_s)
            ran.append(pause_s)

    others = gevent.spawn(run)

    late_us(timer, 50_000)

    assert ran == [0.001, 0.002, 0.003]
    others.join()


def test_a_moment_that_has_passed_is_not_waited_for(timer: GreenletTimer) -> None:
    begun_ns = time.monotonic_ns()

    timer.sleep_until(begun_ns - 1)

    assert time.monotonic_ns() - begun_ns < 50_000 * US


def test_a_system_without_timerfd_has_the_event_loops_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    timer = GreenletTimer()

    assert late_us(timer, 3_000) >= 0
    timer.close()


def test_a_sleep_that_is_cut_leaves_the_clock_usable(timer: GreenletTimer) -> None:
    sleeper = gevent.spawn(late_us, timer, 60_000_000)
    gevent.sleep(0.01)
    sleeper.kill()

    assert late_us(timer, 500) >= 0
    timer.close()
    timer.close()
