"""Whose doing a change is: shares of a whole among players that act together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import factorial

import numpy as np
from jaxtyping import Float

Value = Callable[[frozenset[int]], Float[np.ndarray, "..."]]  # what comes of a coalition


def shapley(value: Value, players: int) -> Float[np.ndarray, ...]:
    """The share of each player: the mean, over all orders, of what it adds when it joins (Shapley 1953).

    Shares add up to the value of all players less that of none. ``value`` is asked 2^players times.

    >>> shapley(lambda who: np.array(float(len(who)) + ({0, 1} <= who)), 2).tolist()
    [1.5, 1.5]
    """
    worth = {
        frozenset(who): np.asarray(value(frozenset(who)), dtype=np.float64)
        for size in range(players + 1)
        for who in combinations(range(players), size)
    }
    shares = np.zeros((players, *worth[frozenset()].shape))
    for who, there in worth.items():
        for player in set(range(players)) - who:
            weight = factorial(len(who)) * factorial(players - len(who) - 1) / factorial(players)
            shares[player] += weight * (worth[who | {player}] - there)
    return shares


def left_out(value: Value, players: int) -> Float[np.ndarray, ...]:
    """What would be missing of the whole without each player; these do not add up, as what players do together counts for each.

    >>> left_out(lambda who: np.array(float(len(who)) + ({0, 1} <= who)), 2).tolist()
    [2.0, 2.0]
    """
    everyone = frozenset(range(players))
    whole = np.asarray(value(everyone), dtype=np.float64)
    return np.stack([whole - np.asarray(value(everyone - {player})) for player in range(players)])
