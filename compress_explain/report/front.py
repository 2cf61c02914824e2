"""The front of a search: harm over cost, a panel for each way to count costs. Nothing here is HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress_explain.report.charts import Scale, round_values, scale_over

_LEFT, _TOP, _WIDTH, _HEIGHT, _BOTTOM = 70, 18, 440, 280, 46


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial before it is placed: its ``cost``, the change of accuracy with its interval, and where it leads."""

    number: int
    cost: float
    change: float
    interval: tuple[float, float]
    state: str
    named: bool
    on_front: bool
    link: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A pipeline that was only tried: its cost, and the change of accuracy that was seen then."""

    cost: float
    change: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A trial in px: its place and the ends of its interval; ``label`` is where its number stands."""

    x: float
    y: float
    low: float
    high: float
    label: tuple[float, float]
    point: Point


@dataclass(frozen=True, kw_only=True)
class Front:
    """One panel, ready to be drawn; ``way`` is the line through the points that no other beats."""

    name: str
    across_is: str
    width: float
    height: float
    box: tuple[float, float, float, float]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    zero: float
    way: str
    marks: tuple[Mark, ...]
    dots: tuple[tuple[float, float, str], ...]


def front(name: str, across_is: str, points: Sequence[Point], dots: Sequence[Dot], *, shares: bool) -> Front:
    """Lay out the points; ``shares`` are told in percent. Dots far below every trial are left out."""
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    lows = [value for point in points for value in (*point.interval, point.change)]
    floor = min(0.0, *lows) * 1.6 - 0.01
    seen = [dot for dot in dots if dot.change >= floor]
    costs = [point.cost for point in points] + [dot.cost for dot in seen]
    widths = scale_over([0.0, *costs], _LEFT, right)
    widths = Scale(low=0.0, high=widths.high, start=_LEFT, stop=right)
    heights = scale_over([0.0, *lows, *(dot.change for dot in seen)], bottom, _TOP)
    placed = sorted(points, key=lambda point: point.named)
    labels = _labels([(widths(each.cost), heights(each.change)) for each in placed])
    best = sorted((point for point in points if point.on_front), key=lambda point: point.cost)
    return Front(
        name=name,
        across_is=across_is,
        width=right + 24,
        height=bottom + _BOTTOM,
        box=(_LEFT, _TOP, right, bottom),
        across=tuple(
            (widths(value), f"{100 * value:.0f}%" if shares else f"{value:g}")
            for value, _ in round_values(0.0, widths.high, 5)
        ),
        up=tuple((heights(value), _points_of_percent(value)) for value, _ in round_values(heights.low, heights.high, 5)),
        zero=heights(0.0),
        way="M" + "L".join(f"{widths(each.cost)} {heights(each.change)}" for each in best) if len(best) > 1 else "",
        marks=tuple(
            Mark(
                x=widths(each.cost), y=heights(each.change), low=heights(each.interval[0]), high=heights(each.interval[1]),
                label=label, point=each,
            )
            for each, label in zip(placed, labels, strict=True)
        ),
        dots=tuple((widths(dot.cost), heights(dot.change), dot.title) for dot in seen),
    )  # fmt: skip


def _labels(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where numbers stand: above and to the right of their points, or at another corner where that is taken.

    >>> _labels([(50.0, 50.0), (51.0, 50.0)])
    [(62.0, 40.0), (63.0, 68.0)]
    """
    found: list[tuple[float, float]] = []
    for x, y in places:
        corners = [(x + 12, y - 10), (x + 12, y + 18), (x - 24, y - 10), (x - 24, y + 18)]
        free = [each for each in corners if all(abs(each[0] - a) > 14 or abs(each[1] - b) > 13 for a, b in found)]
        found.append((free or corners)[0])
    return found


def _points_of_percent(value: float) -> str:
    """
    >>> _points_of_percent(-0.02), _points_of_percent(0.0)
    ('−2', '0')
    """
    return f"{100 * value:+.3g}".replace("-", "\N{MINUS SIGN}") if abs(value) > 1e-9 else "0"
