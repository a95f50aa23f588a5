"""The Pareto front of points, each with what a user gets and what the deployment gives; more is better of both."""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """
    Return the indices of the points that no other beats, in ascending order of x.

    A point beats another where it has at least as much of both and more of one; of equal points all are on the front.
    """
    order = sorted(range(len(points)), key=lambda index: (-points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        best = front and points[front[-1]]
        if not best or points[index][1] > best[1] or points[index] == best:
            front.append(index)
    return front[::-1]
