"""Times calls beside one another, in mirrored blocks: whatever else the machine does falls on all of them alike.

A block takes the runners in some order and then in the reverse of it (A B B A), so that a steady drift cancels within it. The
orders are drawn, each as often as the others. Before the timed calls of a turn there is one that does not count: each is timed as it is where
it runs alone, with its own weights in the caches.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Call = Callable[[], object]
Clock = Callable[[], float]  # seconds

CONTROL = "original again"  # the original as a runner of its own: what it differs from itself by is the machine's doing


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How many blocks are timed, and in what time; ``calls`` are those of a turn, as many as the time allows unless given.

    A warm-up is over when the median of the last ``window`` calls differs by less than ``stable`` from that of as many before, or after
    ``most`` calls. There are fewer than ``count`` blocks where not even one call a turn fits into ``seconds``, but never fewer
    than ``fewest``.
    """

    count: int = 24
    calls: int | None = None
    seconds: float = 8.0
    fewest: int = 6
    seed: int = 0
    window: int = 5
    stable: float = 0.02
    most: int = 60


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Every timed call in the order in which they were made; one list a column."""

    block: list[int] = field(default_factory=list, repr=False)
    position: list[int] = field(default_factory=list, repr=False)
    side: list[str] = field(default_factory=list, repr=False)
    milliseconds: list[float] = field(default_factory=list, repr=False)
    warm_up: dict[str, int] = field(default_factory=dict)

    def columns(self) -> dict[str, list[int] | list[str] | list[float]]:
        """By name."""
        return {
            "block": self.block,
            "position": self.position,
            "side": self.side,
            "milliseconds": self.milliseconds,
        }


def interleave(
    runners: Mapping[str, Call],
    blocks: Blocks,
    *,
    clock: Clock = time.perf_counter,
    advance: Callable[[int], None] = lambda blocks: None,
) -> Turns:
    """Warm every runner up, then time all of them block by block; ``advance`` is told of each block."""
    warm = {name: warmed_up(call, blocks, clock) for name, call in runners.items()}
    count, calls = fitted(blocks, sum(statistics.median(times[-blocks.window :]) for times in warm.values()))
    turns = Turns(warm_up={name: len(times) for name, times in warm.items()})
    for block, order in enumerate(orders(list(runners), count, blocks.seed)):
        for position, name in enumerate((*order, *reversed(order))):
            for milliseconds in _timed(runners[name], calls, clock):
                turns.block.append(block)
                turns.position.append(position)
                turns.side.append(name)
                turns.milliseconds.append(milliseconds)
        advance(1)
    return turns


def warmed_up(call: Call, blocks: Blocks, clock: Clock = time.perf_counter) -> list[float]:
    """Call until the times are stable: how long each call took, milliseconds."""
    times: list[float] = []
    while len(times) < blocks.most:
        start = clock()
        call()
        times.append(1e3 * (clock() - start))
        if sum(times) > 1e3 * blocks.seconds or _stable(times, blocks):
            break
    return times


def fitted(blocks: Blocks, milliseconds: float) -> tuple[int, int]:
    """How many blocks and how many timed calls a turn, when one call of every runner takes that long together.

    >>> fitted(Blocks(seconds=10), 10.0), fitted(Blocks(seconds=10), 1000.0), fitted(Blocks(calls=4), 10.0)
    ((24, 19), (6, 1), (24, 4))
    """
    if blocks.calls is not None:
        return blocks.count, blocks.calls
    in_time = (
        1e3 * blocks.seconds / max(2 * milliseconds, 1e-6)
    )  # calls of every turn, the one that does not count among them
    calls = min(max(int(in_time / blocks.count) - 1, 1), _MOST_CALLS)
    return min(blocks.count, max(blocks.fewest, int(in_time / (calls + 1)))), calls


def orders(names: Sequence[str], count: int, seed: int) -> list[tuple[str, ...]]:
    """The first half of every block: all orders equally often, as far as the count allows, in a drawn sequence.

    >>> sorted(orders(["A", "B"], 4, 0))
    [('A', 'B'), ('A', 'B'), ('B', 'A'), ('B', 'A')]
    """
    generator = random.Random(seed)
    drawn: list[tuple[str, ...]] = []
    while len(drawn) < count:
        every = list(itertools.permutations(names))
        generator.shuffle(every)
        drawn += every
    return drawn[:count]


_MOST_CALLS = 64


def _timed(call: Call, calls: int, clock: Clock) -> list[float]:
    call()
    times = []
    for _ in range(calls):
        start = clock()
        call()
        times.append(1e3 * (clock() - start))
    return times


def _stable(times: Sequence[float], blocks: Blocks) -> bool:
    if len(times) < 2 * blocks.window:
        return False
    last = statistics.median(times[-blocks.window :])
    before = statistics.median(times[-2 * blocks.window : -blocks.window])
    return abs(last - before) < blocks.stable * before
