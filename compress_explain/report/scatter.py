"""Scatter plots of exact against expected, around a diagonal. Axes that span many sizes are stretched near 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from compress_explain.report.charts import round_values
from compress_explain.report.spread import power_text

_SIDE, _LEFT, _TOP, _BOTTOM = 262, 82, 12, 46
_SPAN = 30  # largest over median magnitude at which axes are stretched
_TOLD = 400  # points beyond which they carry no text
_APART, _WIDE = 28, 60  # px between ticks, short and long ones


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points of one method before they are placed."""

    shape: str
    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    titles: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point, in px."""

    shape: str
    x: float
    y: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """One panel; ``marks`` single points, or ``dots`` one path a shape where there are many."""

    name: str
    title: str
    description: str
    width: float
    height: float
    box: tuple[float, float, float, float]
    across_is: str
    ticks: tuple[tuple[float, float, str], ...]
    zero: tuple[float, float]
    marks: tuple[Mark, ...]
    dots: tuple[tuple[str, str], ...]
    stretched: bool


def scatter(name: str, title: str, description: str, across_is: str, points: Sequence[Points]) -> Scatter:
    """Lay out all points on one scale for both axes."""
    values = np.concatenate([np.concatenate([each.x, each.y]) for each in points])
    axis = _Axis.over(values)
    told = sum(len(each.x) for each in points) <= _TOLD
    right, bottom = _LEFT + _SIDE, _TOP + _SIDE

    def sideways(value: float) -> float:
        return round(_LEFT + axis(value) * _SIDE, 1)

    def up(value: float) -> float:
        return round(bottom - axis(value) * _SIDE, 1)

    marks = [
        Mark(shape=each.shape, x=sideways(x), y=up(y), title=text)
        for each in points
        for x, y, text in zip(each.x.tolist(), each.y.tolist(), each.titles, strict=True)
    ]
    return Scatter(
        name=name,
        title=title,
        description=description,
        width=right + 26,
        height=bottom + _BOTTOM,
        box=(_LEFT, _TOP, right, bottom),
        across_is=across_is,
        ticks=tuple((sideways(value), up(value), text) for value, text in axis.ticks()),
        zero=(sideways(0.0), up(0.0)),
        marks=tuple(marks) if told else (),
        dots=() if told else tuple((each.shape, _dots(each, sideways, up)) for each in points),
        stretched=axis.bend > 0,
    )


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Values to [0, 1]: linear, or the inverse hyperbolic sine of value over ``bend``."""

    low: float
    high: float
    bend: float

    @classmethod
    def over(cls, values: np.ndarray) -> _Axis:
        magnitudes = np.abs(values[values != 0])
        median = float(np.median(magnitudes)) if len(magnitudes) else 1.0
        top = float(magnitudes.max()) if len(magnitudes) else 1.0
        bend = median if top > _SPAN * median else 0.0
        bent = _bent(np.append(values, 0.0), bend)
        air = 0.05 * float(np.ptp(bent)) or 0.5
        return cls(low=float(bent.min()) - air, high=float(bent.max()) + air, bend=bend)

    def __call__(self, value: float) -> float:
        bent = _bent_one(value, self.bend)
        return min(1.0, max(0.0, (bent - self.low) / (self.high - self.low)))

    def ticks(self) -> list[tuple[float, str]]:
        if not self.bend:
            found = round_values(self.low, self.high, 3)
            crowded = abs(self(found[1][0]) - self(found[0][0])) * _SIDE < _WIDE
            return [each for index, each in enumerate(found) if not crowded or (index - _zero_of(found)) % 2 == 0]
        reach = math.ceil(math.log10(math.sinh(max(abs(self.low), abs(self.high))) * self.bend))
        chosen = [(0.0, "0")]
        for power in range(reach, reach - 12, -1):
            for sign, word in ((1.0, "+"), (-1.0, "−")):
                value = sign * 10.0**power
                inside = self.low <= _bent_one(value, self.bend) <= self.high
                apart = all(abs(self(value) - self(other)) * _SIDE >= _APART for other, _ in chosen)
                if inside and apart:
                    chosen.append((value, word + power_text(power)))
        return chosen


def _bent(values: np.ndarray, bend: float) -> np.ndarray:
    return np.arcsinh(values / bend) if bend else values


def _zero_of(ticks: Sequence[tuple[float, str]]) -> int:
    return min(range(len(ticks)), key=lambda index: abs(ticks[index][0]))


def _bent_one(value: float, bend: float) -> float:
    return math.asinh(value / bend) if bend else value


def _dots(points: Points, sideways: Callable[[float], float], up: Callable[[float], float]) -> str:
    return "".join(f"M{sideways(x):g} {up(y):g}h0" for x, y in zip(points.x.tolist(), points.y.tolist(), strict=True))
