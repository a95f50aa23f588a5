"""An engine's series over a window: counters from edge to edge, gauges within, over several spans and engines."""

from collections.abc import Sequence

import pytest

from llmload.runs.engine_window import engine_speculation, engine_window
from llmload.runs.samples import SampledPart


def engine(*, first: float = 0.0, **series: Sequence[float | None]) -> SampledPart:
    """An engine that was read each second from `first` on."""
    count = max(map(len, series.values()))
    return SampledPart(
        "e",
        t_s=[first + index for index in range(count)],
        values={name: list(values) for name, values in series.items()},
    )


STEADY = engine(
    output_tokens=[100.0 * second for second in range(11)],
    preemptions=[0.0] * 5 + [3.0] * 6,
    running=[0.0, 0.0, 4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 2.0, 0.0, 0.0],
    waiting=[0.0] * 4 + [2.0] * 4 + [0.0] * 3,
    kv_cache_usage=[0.1 * second for second in range(11)],
    ttft_sum_s=[0.5 * second for second in range(11)],
    ttft_count=[2.0 * second for second in range(11)],
    prefix_cache_hits=[30.0 * second for second in range(11)],
    prefix_cache_queries=[100.0 * second for second in range(11)],
)


def test_counters_count_from_edge_to_edge_and_gauges_within() -> None:
    found = engine_window([STEADY], [(2.5, 7.25)])

    assert found is not None
    assert found.samples == 5
    assert found.output_tokens == pytest.approx(475)
    assert found.preemptions == 3
    assert found.running_mean == pytest.approx((4 + 4 * 8) / 5)
    assert found.waiting_mean == pytest.approx(8 / 5)
    assert (found.running_max, found.waiting_max) == (8, 2)
    assert found.kv_cache_usage_max == pytest.approx(0.7)
    assert found.ttft_mean_s == pytest.approx(0.25)
    assert found.prefix_cache_hit_share == pytest.approx(0.3)
    assert (found.itl_mean_s, found.queue_mean_s, found.prompt_tokens) == (None, None, None)


def test_a_window_of_several_spans_and_several_engines_adds_up() -> None:
    found = engine_window([STEADY, STEADY], [(1.0, 2.0), (8.0, 9.5)])

    assert found is not None
    assert found.output_tokens == pytest.approx(2 * 250)
    assert found.preemptions == 0
    assert found.kv_cache_usage_max == pytest.approx(0.9)
    assert found.running_max == 2 * 2


def test_a_window_beyond_the_samples_takes_the_nearest_ones() -> None:
    found = engine_window([STEADY], [(-3.0, 99.0)])

    assert found is not None
    assert found.output_tokens == 1000


@pytest.mark.parametrize(
    ("values", "increase"),
    [
        ([5.0, 9.0, 1.0, 3.0], None),
        ([9.0, 1.0, 2.0, 5.0], None),
        ([None, 1.0, 2.0, 5.0], None),
        ([0.0, 1.0, 2.0, 5.0], 5.0),
    ],
    ids=["began again in it", "began again at its start", "not served at its start", "steady"],
)
def test_what_a_counter_did_is_unknown_where_it_started_again(
    values: list[float | None], increase: float | None
) -> None:
    found = engine_window([engine(output_tokens=values)], [(0.0, 3.0)])

    assert found is not None
    assert found.output_tokens == increase


def test_nothing_is_known_without_a_sample_in_the_window() -> None:
    assert engine_window([], [(0.0, 9.0)]) is None
    assert engine_window([STEADY], []) is None
    assert engine_window([STEADY], [(2.1, 2.9)]) is None


def test_speculative_decoding_by_counters_and_by_position() -> None:
    drafting = engine(
        drafts=[0.0, 100.0, 200.0],
        draft_tokens=[0.0, 300.0, 600.0],
        accepted_tokens=[0.0, 150.0, 300.0],
        accepted_at_1=[0.0, 80.0, 160.0],
        accepted_at_2=[0.0, 50.0, 100.0],
        accepted_at_3=[0.0, 20.0, 40.0],
        accepted_at_4=[None, None, None],
    )
    found = engine_speculation([drafting], [(0.5, 2.0)])

    assert found is not None
    assert (found.source, found.drafts, found.draft_tokens, found.accepted_tokens) == ("engine", 150, 450, 225)
    assert found.acceptance_rate == 0.5
    assert found.accept_length == 1 + 225 / 150
    assert found.by_position == pytest.approx((0.8, 0.5, 0.2))
    assert engine_speculation([STEADY], [(0.0, 9.0)]) is None


@pytest.mark.parametrize(
    ("reads", "span"),
    [([7.0], (-1.0, 1.0)), ([7.0, 9.0], (3.0, 4.0)), ([7.0, 9.0], (-4.0, -3.0))],
    ids=["one read", "all before it", "all after it"],
)
def test_a_counter_that_was_not_read_around_a_window_is_unknown_not_0(
    reads: list[float], span: tuple[float, float]
) -> None:
    found = engine_window([STEADY, engine(output_tokens=reads)], [span, (2.0, 4.0)])

    assert found is not None
    assert found.output_tokens is None
