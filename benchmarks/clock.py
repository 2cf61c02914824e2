"""Timing on a machine that others use too: in turn with a yardstick, and by medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Action = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of each repetition of one action, and of the yardstick just before it."""

    seconds: tuple[float, ...]
    yardstick: tuple[float, ...]

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


def interleaved(actions: Mapping[str, Action], yardstick: Action, repeats: int) -> dict[str, Timing]:
    """Every action ``repeats`` times, round after round; ``yardstick`` is measured before each."""
    yardstick()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            unit = seconds(yardstick)
            taken[name].append((seconds(action), unit))
    return {
        name: Timing(seconds=tuple(mine for mine, _ in pairs), yardstick=tuple(unit for _, unit in pairs))
        for name, pairs in taken.items()
    }


def seconds(action: Action) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
