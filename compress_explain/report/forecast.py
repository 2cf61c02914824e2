"""The course of a run through FLOPs and loss: where every step led, and where it was expected to lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress_explain.report.charts import Scale, round_values

_LEFT, _TOP, _WIDTH, _HEIGHT, _BOTTOM = 76, 14, 720, 300, 48


@dataclass(frozen=True, kw_only=True)
class Point:
    """One step before it is placed: shares of FLOPs removed, and mean loss change since the original in nats."""

    start: tuple[float, float]
    end: tuple[float, float]
    interval: tuple[float, float]
    expected: float
    action: str
    reverted: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step in px: from ``start`` to the observed ``end``, with its interval, and to the ``expected`` height."""

    start: tuple[float, float]
    end: tuple[float, float]
    low: float
    high: float
    expected: float
    removal: bool
    reverted: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The figure, ready to be drawn."""

    name: str
    title: str
    description: str
    width: float
    height: float
    box: tuple[float, float, float, float]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    zero: float
    steps: tuple[Step, ...]


def forecast(name: str, points: Sequence[Point]) -> Forecast:
    """Lay out the steps in the order given."""
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    values = [value for point in points for value in (point.start[1], point.end[1], *point.interval, point.expected)]
    low, high = min(0.0, *values), max(0.0, *values)
    air = 0.06 * (high - low) or 0.01
    heights = Scale(low=low - air, high=high + air, start=bottom, stop=_TOP)
    widest = max(point.end[0] for point in points) or 0.01
    widths = Scale(low=0.0, high=1.04 * widest, start=_LEFT, stop=right)
    return Forecast(
        name=name,
        title="Loss change since the original, over the share of layer FLOPs removed",
        description="The line is what was observed after each step, with its 95% interval; from every point of it a dashed "
        "line leads to the diamond that was expected of the next step.",
        width=right + 16,
        height=bottom + _BOTTOM,
        box=(_LEFT, _TOP, right, bottom),
        across=tuple((widths(value), f"{100 * value:.0f}%") for value, _ in round_values(0.0, 1.04 * widest, 8)),
        up=tuple((heights(value), text) for value, text in round_values(low - air, high + air, 5)),
        zero=heights(0.0),
        steps=tuple(
            Step(
                start=(widths(point.start[0]), heights(point.start[1])),
                end=(widths(point.end[0]), heights(point.end[1])),
                low=heights(point.interval[0]),
                high=heights(point.interval[1]),
                expected=heights(point.expected),
                removal=point.action == "remove",
                reverted=point.reverted,
                title=point.title,
            )
            for point in points
        ),
    )
