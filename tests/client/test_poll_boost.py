"""When to poll the sockets often, and for how long."""

import pytest

from llmload.client.stamped_reads import PollBoost

MS = 1_000_000


def test_a_single_delay_boosts_briefly_and_once() -> None:
    boost = PollBoost()
    boost.on_coalesced([1_000 * MS], 1_010 * MS)

    for late_ms in range(990, 1_100, 10):  # others find what the same moment did to them
        boost.on_coalesced([late_ms * MS], 1_105 * MS)

    assert boost.active(1_109 * MS)
    assert not boost.active(1_110 * MS)


def test_delays_far_apart_boost_briefly() -> None:
    boost = PollBoost()

    for second in range(1, 20):
        boost.on_coalesced([second * 1_000 * MS], second * 1_000 * MS)
        assert not boost.active((second * 1_000 + 100) * MS)


@pytest.mark.parametrize(("decoded_every_ms", "share"), [(5, 0.99), (100, 0.97), (310, 0.9), (500, 0.88), (1_000, 0.8)])
def test_an_engine_that_is_always_faster_is_polled_often_nearly_always(decoded_every_ms: int, share: float) -> None:
    boost, often_ms, coalesced_ns = PollBoost(), 0, []

    for now_ms in range(1_000, 121_000):
        if boost.active(now_ms * MS):
            often_ms += 1
        elif now_ms % 4 == 0:  # the rare look finds two chunks
            coalesced_ns.append(now_ms * MS)
        if now_ms % decoded_every_ms == 0:
            boost.on_coalesced(coalesced_ns, now_ms * MS)
            coalesced_ns.clear()

    assert often_ms > share * 120_000
