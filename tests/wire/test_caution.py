"""When to look often at the sockets, and for how long."""

from llmload.wire.caution import Caution

MS = 1_000_000


def test_one_late_moment_is_short_and_is_told_once() -> None:
    caution = Caution()
    caution.found(1_000 * MS, 1_010 * MS)

    for late_ms in range(990, 1_100, 10):  # others find what the same moment did to them
        caution.found(late_ms * MS, 1_105 * MS)

    assert caution.lasts(1_109 * MS)
    assert not caution.lasts(1_110 * MS)


def test_late_moments_far_apart_stay_short() -> None:
    caution = Caution()

    for second in range(1, 20):
        caution.found(second * 1_000 * MS, second * 1_000 * MS)
        assert not caution.lasts((second * 1_000 + 100) * MS)


def test_an_engine_that_is_always_faster_is_looked_at_often_nearly_always() -> None:
    caution, now_ms, often_ms = Caution(), 1_000, 0

    while now_ms < 61_000:
        if caution.lasts(now_ms * MS):
            often_ms += 1
        elif now_ms % 4 == 0:  # the rare look finds two chunks
            caution.found(now_ms * MS, (now_ms + 5) * MS)
        now_ms += 1

    assert often_ms > 0.99 * 60_000
