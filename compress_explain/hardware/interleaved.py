"""Two runners timed in turn, with a control: the original once more, as if it were a third.

A block calls every runner twice, in some order and then in the reverse of it (of two: ABBA or BAAB), so that a machine that
grows slower at a steady rate harms all alike. Every order comes as often as every other, shuffled by a seed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress_explain.errors import InputError

ORIGINAL, COMPRESSED, CONTROL = "original", "compressed", "original again"
Action = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long is waited and measured.

    A runner is warm when the median of its last ``steady`` calls is within ``change`` (a share) of that of as many before, or
    after ``most`` calls. ``blocks`` are measured, fewer where they would take more than ``seconds``, but no fewer than
    ``fewest``.
    """

    blocks: int = 60
    seconds: float = 30.0
    fewest: int = 12
    steady: int = 5
    change: float = 0.02
    most: int = 50

    def __post_init__(self) -> None:
        for name in ("blocks", "fewest", "steady", "most"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "nothing would be measured", "give at least 1")
        if self.blocks < self.fewest:
            raise InputError(
                "blocks", self.blocks, f"fewer than {self.fewest} tell too little", f"give at least {self.fewest}"
            )


PATIENCE = Patience()


@dataclass(frozen=True, kw_only=True)
class Call:
    """One timed call: the ``position`` in its block counts from 0."""

    block: int
    position: int
    side: str
    milliseconds: float


def interleave(
    actions: Mapping[str, Action], patience: Patience = PATIENCE, *, seed: int = 0, clock: Clock = time.perf_counter
) -> list[Call]:
    """Warm every runner up, then time all of them block by block; ``clock`` tells seconds."""
    for action in actions.values():
        warm_up(action, patience, clock)
    calls: list[Call] = []
    start = clock()
    for block, order in enumerate(orders(list(actions), patience.blocks, seed)):
        if block >= patience.fewest and clock() - start > patience.seconds:
            break
        for position, side in enumerate(order):
            calls.append(
                Call(block=block, position=position, side=side, milliseconds=_milliseconds(actions[side], clock))
            )
    return calls


def orders(sides: Sequence[str], blocks: int, seed: int) -> Iterator[tuple[str, ...]]:
    """The order of every block.

    >>> sorted(orders(["A", "B"], 2, seed=0))
    [('A', 'B', 'B', 'A'), ('B', 'A', 'A', 'B')]
    """
    rng = np.random.default_rng(seed)
    every = list(itertools.permutations(sides))
    for block in range(blocks):
        if block % len(every) == 0:
            shuffled = rng.permutation(len(every))
        forth = every[shuffled[block % len(every)]]
        yield (*forth, *reversed(forth))


def warm_up(action: Action, patience: Patience = PATIENCE, clock: Clock = time.perf_counter) -> int:
    """Call until calls take as long as those before; returns how many it took."""
    taken: list[float] = []
    while len(taken) < patience.most:
        taken.append(_milliseconds(action, clock))
        if len(taken) >= 2 * patience.steady:
            last = statistics.median(taken[-patience.steady :])
            before = statistics.median(taken[-2 * patience.steady : -patience.steady])
            if abs(last - before) <= patience.change * before:
                break
    return len(taken)


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """This thread, and those that it starts, on as many processors as ``threads``, inside; where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])  # the first is the one that serves interrupts
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _milliseconds(action: Action, clock: Clock) -> float:
    start = clock()
    action()
    return 1e3 * (clock() - start)
