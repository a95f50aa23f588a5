"""A greenlet that sleeps by the timer wakes on time, well within the event loop's millisecond."""

import statistics
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from llmload.loadgen.open_loop import GreenletTimer, Schedule

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


def test_a_request_that_is_due_is_sent_before_what_else_waits_for_the_loop() -> None:
    order: list[str] = []
    session: Any = SimpleNamespace(starting=True, next_conversation=object, end_of_schedule=lambda: order.append("end"))

    def send(_: object, __: int) -> None:
        order.append("sent")
        gevent.sleep(0)

    def busy() -> None:
        order.append("waited")

    def gaps() -> Iterator[float]:
        get_hub().loop.run_callback(busy)
        yield 0.0

    schedule = Schedule(session, gaps(), lambda _: (1.0, 1 << 62), send, max_in_flight=1)
    gevent.spawn(schedule.run).join()

    assert order == ["sent", "waited", "end"]
