"""Timing on a machine that others use too: in turn with a yardstick, by medians, and by processor time beside it.

On one thread both clocks agree while nobody else computes; where they do not, the processor's is the
better guide to what the work takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Action = Callable[[], Any]
_CLOCKS = (time.perf_counter, time.process_time)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of each repetition of one action and of the yardstick just before it; ``cpu`` is the same in CPU time."""

    seconds: tuple[float, ...]
    yardstick: tuple[float, ...]
    cpu: Timing | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ratios(self) -> list[float]:
        return [mine / unit for mine, unit in zip(self.seconds, self.yardstick, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the multiples of the yardstick."""
        return statistics.median(self.ratios)

    def gain(self, other: Timing) -> float:
        """How many times faster than ``other``: the median over repetitions."""
        return statistics.median(slow / fast for fast, slow in zip(self.seconds, other.seconds, strict=True))

    def less(self, other: Timing) -> Timing:
        """What is left without ``other``, which is part of it."""
        seconds = tuple(mine - part for mine, part in zip(self.seconds, other.seconds, strict=True))
        return Timing(seconds=seconds, yardstick=self.yardstick)


def interleaved(actions: Mapping[str, Action], yardstick: Action, repeats: int) -> dict[str, Timing]:
    """Every action ``repeats`` times, round after round; ``yardstick`` is measured before each."""
    yardstick()
    taken: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            unit = _measured(yardstick)
            taken[name].append((_measured(action), unit))
    return {name: _timing(pairs) for name, pairs in taken.items()}


def _measured(action: Action) -> tuple[float, ...]:
    """What each clock says of one call."""
    started = [clock() for clock in _CLOCKS]
    action()
    return tuple(clock() - start for clock, start in zip(_CLOCKS, started, strict=True))


def _timing(pairs: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> Timing:
    wall, cpu = (
        (tuple(mine[clock] for mine, _ in pairs), tuple(unit[clock] for _, unit in pairs)) for clock in range(2)
    )
    return Timing(seconds=wall[0], yardstick=wall[1], cpu=Timing(seconds=cpu[0], yardstick=cpu[1]))
