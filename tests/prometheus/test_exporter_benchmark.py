"""The benchmark reads quantiles as Prometheus does, and a scrape stays cheap."""

import pytest

from benchmarks.trials.exporter import histogram_quantile, scrape_ms

INF = float("inf")


def test_a_quantile_is_linear_between_the_bounds_of_its_bucket() -> None:
    buckets = [(0.1, 10.0), (0.2, 30.0), (0.4, 40.0), (INF, 40.0)]

    assert histogram_quantile(0.5, buckets) == pytest.approx(0.15)
    assert histogram_quantile(0.1, buckets) == pytest.approx(0.04)
    assert histogram_quantile(0.99, [(0.1, 1.0), (INF, 100.0)]) == 0.1


def test_a_scrape_of_eight_workers_takes_a_few_milliseconds_of_cpu_time() -> None:
    times_ms, series = scrape_ms()

    assert 1_100 < series < 1_400
    assert min(times_ms) < 6, "the least is what the code costs; the others are what else the machine did"
