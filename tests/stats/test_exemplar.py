"""The slowest of the recent requests is the exemplar of them all, in one process and over several."""

from typing import Any

from llmload.metrics.totals import Exemplars, RunTotals
from llmload.stats.histogram import EXEMPLARS_KEPT, RECENT_S, Exemplar, slowest


def test_a_slower_request_replaces_the_exemplar_and_a_faster_one_only_after_a_while() -> None:
    known = Exemplar(1.0, "a", 100.0)

    assert known.is_replaced_by(1.5, 101.0)
    assert not known.is_replaced_by(0.5, 100.0 + RECENT_S)
    assert known.is_replaced_by(0.5, 101.0 + RECENT_S)


def test_the_few_slowest_recent_requests_of_several_processes_remain() -> None:
    whole = RunTotals()
    for worker in range(8):
        part = RunTotals(exemplars=Exemplars({"ttft_s": [Exemplar(float(worker), f"w{worker}", 1000.0)]}))
        whole.merge(RunTotals.from_message(part.to_message()))
    whole.merge(RunTotals(exemplars=Exemplars({"ttft_s": [Exemplar(99.0, "old", 999.0 - RECENT_S)]})))

    assert [each.request_id for each in whole.exemplars["ttft_s"]] == ["w7", "w6", "w5", "w4"]
    assert len(whole.exemplars["ttft_s"]) == EXEMPLARS_KEPT
    assert slowest([]) == []


def test_a_worker_of_an_older_version_reports_none() -> None:
    message: dict[str, Any] = RunTotals().to_message()
    del message["exemplars"]

    assert RunTotals.from_message(message).exemplars == {}
