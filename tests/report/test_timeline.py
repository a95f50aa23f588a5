"""A run over time, compared with sums computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from llmload.metrics.requests import RequestTable
from llmload.runs.requests import read_tables
from llmload.runs.timeline import SAMPLE_SIZE, RequestSample, Timeline, bin_width_s, grouping
from llmload.stats.histogram import HistogramSeries
from tests.recorded import records, write_folder


def table_of(folder: Path, count: int, *, with_chunks: bool = True) -> tuple[RequestTable, float]:
    of = records(count)
    write_folder(folder, of, with_chunks=with_chunks)
    (table,) = read_tables([folder / "requests.jsonl"], 0.0)
    origin_s = float(table.start_s.min()) - 1
    (table,) = read_tables([folder / "requests.jsonl"], origin_s)
    return table, float(table.done_s.max()) + 0.5


@pytest.mark.parametrize("with_chunks", [True, False])
def test_nothing_is_lost_between_the_bins(with_chunks: bool, tmp_path: Path) -> None:
    table, span_s = table_of(tmp_path / "run", 500, with_chunks=with_chunks)
    timeline = Timeline(0.7, span_s)
    timeline.add(table)

    arrived = np.nansum(table.numbers["output_tokens"][~table.failed])
    assert timeline.tokens.sum() == pytest.approx(arrived, rel=1e-6)
    assert timeline.completed.sum() == table.completed.sum()
    assert sum(count.sum() for count in timeline.errors.values()) == table.failed.sum()
    assert np.dot(timeline.in_flight, timeline.widths_s) == pytest.approx(table.numbers["e2e_s"].sum(), rel=1e-6)
    assert timeline.widths_s.sum() == pytest.approx(span_s)


def test_in_flight_is_the_mean_of_each_bin(tmp_path: Path) -> None:
    table, span_s = table_of(tmp_path / "run", 60)
    timeline = Timeline(1.0, span_s)
    timeline.add(table)

    grid = np.arange(0, span_s, 0.001)
    there = ((grid[:, None] >= table.start_s) & (grid[:, None] < table.done_s)).sum(axis=1)
    for index in range(timeline.bins - 1):
        assert timeline.in_flight[index] == pytest.approx(there[index * 1000 : (index + 1) * 1000].mean(), abs=0.1)


def test_widths_are_round_and_few_requests_get_few_bins() -> None:
    assert bin_width_s(60, 100_000) == 0.5
    assert bin_width_s(3600, 1e6) == 15
    assert bin_width_s(30, 50) == 2
    assert bin_width_s(1e8, 10) > 1e6


def test_quantiles_of_each_bin_are_those_of_its_values() -> None:
    rng = np.random.default_rng(1)
    values, places = rng.lognormal(0, 1, 3000), rng.integers(0, 3, 3000)
    series = HistogramSeries(4)
    series.add(places, values)

    for share in (0.5, 0.95):
        found = series.quantiles(share, min_count=20)
        exact = [np.quantile(values[places == index], share, method="inverted_cdf") for index in range(3)]
        assert found[:3] == pytest.approx(exact, rel=0.003)
        assert found[3] is None
    assert series.grouped(3).counts == [3000, 0]
    assert series.quantiles(0.5, min_count=2000) == [None] * 4


def test_groups_grow_until_they_have_enough() -> None:
    assert grouping(np.full(100, 100)) == 1
    assert grouping(np.full(100, 10)) == 4
    assert grouping(np.full(100, 1)) == 12, "but eight of them at least"
    assert grouping(np.zeros(5, dtype=np.int64)) == 1


def test_a_sample_is_drawn_evenly_from_every_part() -> None:
    sample, rng = RequestSample(), np.random.default_rng(0)
    for part in range(10):
        sample.add({"part": np.full(2000, float(part))}, rng)

    kept = np.bincount(sample.rows["part"].astype(int), minlength=10)
    assert kept.sum() == SAMPLE_SIZE
    assert kept.min() > SAMPLE_SIZE / 10 * 0.6
