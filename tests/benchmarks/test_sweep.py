"""The trial's formula and its front, by hand."""

import pytest

from benchmarks.trials.sweep import ENGINE, SHAPES, USERS, Truth, front_of


def test_a_point_of_the_simulated_engine_by_hand() -> None:
    """Four users of 32 slots: gaps of 10 ms x (1 + 1.5 x 3 / 32); 50 ms and 64 x 0.5 ms before the first token."""
    gap_s = 0.01 * (1 + 1.5 * 3 / 32)
    truth = Truth.of(ENGINE, 4, (64, 64))

    assert truth.user_tokens_per_s == pytest.approx(1 / gap_s)
    assert truth.output_tokens_per_s == pytest.approx(4 * 64 / (0.05 + 0.032 + 63 * gap_s))
    assert truth.requests_per_min == pytest.approx(truth.output_tokens_per_s / 64 * 60)


def test_more_users_bring_more_and_cost_each_so_all_are_on_the_front() -> None:
    assert front_of(USERS, SHAPES[0]) == {f"64/64, {n} user{'' if n == 1 else 's'}" for n in USERS}
