"""What scraping did to a run is judged by the median of pairs, each of a run that was scraped and one that was not."""

import time

import pytest

from benchmarks.tools.work import Work
from benchmarks.trials.scraping import Pair, Reading, judge_pairs, scraping
from llmload.prometheus.export import MetricsServer, wsgi_app
from llmload.prometheus.families import Snapshot

WORK = Work.parse("200x100x128")


def pair(itl_ratio: float, true_ratio: float = 1.0, scrapes: int = 8) -> Pair:
    def reading(itl_p99_s: float, true_itl_p99_s: float) -> Reading:
        itls = {"itl_p99_s": itl_p99_s, "true_itl_p99_s": true_itl_p99_s}
        return Reading(carried_tokens_per_s=19_200.0, cpu_s=20.0, wall_s=40.0, **itls)

    return Pair(scraped=reading(0.01 * itl_ratio, 0.01 * true_ratio), alone=reading(0.01, 0.01), scrapes=scrapes)


def test_the_median_of_pairs_is_judged_and_what_was_not_scraped_is_none() -> None:
    pairs = [pair(1.004), pair(1.5), pair(1.006), pair(0.5, scrapes=0)]

    itl, beside, middle, worst, share = judge_pairs(pairs, WORK, 5.0, [3.0, 2.0, 7.0])

    assert (itl.figure, itl.passed) == ("0.60%", True)
    assert beside.figure == "0.60%"
    assert (middle.figure, middle.passed, worst.figure, worst.passed) == ("3.00", True, "7.00", False)
    assert (share.figure, share.passed) == ("0.12%", True)  # 3 ms of 5 s, on half a core
    assert "19,200 tok/s" in itl.work
    assert not judge_pairs([pair(1.02)], WORK, 5.0, [3.0])[0].passed
    noisy = judge_pairs([pair(1.20, true_ratio=1.195)], WORK, 5.0, [3.0])
    assert [each.passed for each in noisy[:2]] == [False, True], "the machine was slower, not the scraped run"
    assert not judge_pairs([pair(1.0, scrapes=0)], WORK, 5.0, [3.0])[0].passed, "nothing was scraped"


def test_scrapes_are_those_of_prometheus() -> None:
    app = wsgi_app(lambda: Snapshot(labels={"engine": "e", "model": "m", "scenario": "s"}))
    server = MetricsServer(app, "127.0.0.1", 0)
    with scraping(server.port, 0.1) as sizes:
        end_s = time.monotonic() + 10
        while len(sizes) < 2 and time.monotonic() < end_s:
            time.sleep(0.05)
    server.close()

    assert len(sizes) >= 2
    assert min(sizes) > 50_000
    assert sizes[0] == pytest.approx(sizes[1])
