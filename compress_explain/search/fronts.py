"""Which points are worth keeping when every axis counts: less cost, less harm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int


def fronts(points: Float[np.ndarray, "points axes"]) -> Int[np.ndarray, " points"]:
    """The front of each point: 0 where no other is at least as good on every axis and better on one, then in turn.

    >>> fronts(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0]])).tolist()
    [0, 0, 0, 1]
    """
    beaten = dominated(points)
    found, front = np.full(len(points), -1), 0
    while (found < 0).any():
        left = found < 0
        mine = left & ~(beaten & left[None, :]).any(1)
        found[mine] = front
        front += 1
    return found


def dominated(points: Float[np.ndarray, "points axes"]) -> Bool[np.ndarray, "points points"]:
    """Whether the point of a row is dominated by that of a column; of equal ones, by the first."""
    no_worse = (points[None, :, :] <= points[:, None, :]).all(-1)
    better = (points[None, :, :] < points[:, None, :]).any(-1)
    first = np.arange(len(points))[None, :] < np.arange(len(points))[:, None]
    return no_worse & (better | first)


def kept(points: Float[np.ndarray, "points axes"], most: int) -> list[int]:
    """At most so many points: front after front, and of the one that does not fit whole, those spread over the first axis.

    >>> kept(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [3.0, 3.0]]), 2)
    [0, 2]
    """
    chosen: list[int] = []
    found = fronts(points)
    for front in range(int(found.max(initial=-1)) + 1):
        mine = np.flatnonzero(found == front)
        room = most - len(chosen)
        if room <= 0:
            break
        chosen += spread(mine[np.argsort(points[mine, 0], kind="stable")].tolist(), room)
    return sorted(chosen)


def spread(ordered: Sequence[int], most: int) -> list[int]:
    """At most so many of them, both ends and evenly between.

    >>> spread([10, 11, 12, 13, 14], 3), spread([10, 11], 3), spread([10, 11, 12], 1)
    ([10, 12, 14], [10, 11], [11])
    """
    if len(ordered) <= most:
        return list(ordered)
    if most == 1:
        return [ordered[len(ordered) // 2]]
    return [ordered[place] for place in np.linspace(0, len(ordered) - 1, most).round().astype(int)]
