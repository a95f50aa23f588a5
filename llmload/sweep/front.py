"""The Pareto front of points, each with what a user gets and what the deployment gives; more is better of both."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]], *, least_growth: float = 0.0) -> list[int]:
    """
    Return the indices of the points that no other beats, in ascending order of x.

    A point beats another where it has at least as much of both and more of one; of equal points all are on the front.
    It also beats later ones that have of neither `least_growth`, a fraction, more: a higher load with no more of
    either adds only a queue.
    """
    kept: list[int] = []
    for index, (x, y) in enumerate(points):
        lower = (points[each] for each in kept)
        if not any(x < their_x * (1 + least_growth) and y < their_y * (1 + least_growth) for their_x, their_y in lower):
            kept.append(index)
    order = sorted(kept, key=lambda index: (-points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        best = front and points[front[-1]]
        if not best or points[index][1] > best[1] or points[index] == best:
            front.append(index)
    return front[::-1]
