"""Where the marks of a figure go. The templates draw them; nothing here is HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from compress_explain.report.numbers import signed


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear map from values in ``[low, high]`` to positions in ``[start, stop]``, in px."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """
        >>> Scale(low=0, high=2, start=10, stop=30)(0.5)
        15.0
        """
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(1.0, max(0.0, share)) * (self.stop - self.start), 1)

    def ticks(self, about: int = 4) -> list[tuple[float, str]]:
        """Positions and texts of round values.

        >>> [text for _, text in Scale(low=-0.06, high=0.03, start=0, stop=1).ticks()]
        ['−0.06', '−0.04', '−0.02', '0', '+0.02']
        """
        return [(self(value), text) for value, text in round_values(self.low, self.high, about)]


def round_values(low: float, high: float, about: int = 4) -> list[tuple[float, str]]:
    """Some round values from ``low`` to ``high``, with their texts."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - raw))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(index * step, _tick(index * step, digits)) for index in range(first, last + 1)]


def scale_over(values: Iterable[float], start: float, stop: float) -> Scale:
    """A scale that holds every value with a little air; a single value still has a width."""
    seen = list(values)
    low, high = min(seen), max(seen)
    air = 0.06 * (high - low) or 0.01
    return Scale(low=low - air, high=high + air, start=start, stop=stop)


@dataclass(frozen=True, kw_only=True)
class Whisker:
    """An interval against a limit, in one line; ``good`` is the accepted stretch, start and width."""

    title: str
    state: str
    estimate: float
    low: float
    high: float
    limit: float
    other: float | None
    zero: float | None
    good: tuple[float, float]


def whisker(
    scale: Scale,
    *,
    estimate: float,
    interval: tuple[float, float],
    limit: float,
    bounded_below: bool,
    both: bool = False,
    zero: bool,
    state: str,
    title: str,
) -> Whisker:
    """Place an interval, its estimate and its limit on ``scale``; with ``both`` the limit holds on either side of 0."""
    at_limit = scale(limit)
    start, stop = (at_limit, scale.stop) if bounded_below else (scale(-limit) if both else scale.start, at_limit)
    return Whisker(
        title=title,
        state=state,
        estimate=scale(estimate),
        low=scale(interval[0]),
        high=scale(interval[1]),
        limit=at_limit,
        other=start if both else None,
        zero=scale(0.0) if zero else None,
        good=(start, round(stop - start, 1)),
    )


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel before it is placed: a stretch, and marks as (shape, value)."""

    stretch: tuple[float, float]
    marks: tuple[tuple[str, float], ...]
    title: str


def change_line(score: dict[str, Any] | None, name: str, note: str = "") -> Line | None:
    """A score's change with its interval; None where there is none that is a finite number."""
    if score is None or not all(abs(score[part]) < float("inf") for part in ("difference", "low", "high")):
        return None
    interval = f"{signed(score['low'])} to {signed(score['high'])}"
    return Line(
        stretch=(score["low"], score["high"]),
        marks=(("dot", score["difference"]),),
        title=f"{name}: {signed(score['difference'])} ({interval}){note}",
    )


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines side by side on one scale; ``rows`` are (y, x1, x2, ((shape, x), ...), title)."""

    title: str
    left: float
    right: float
    zero: float
    ticks: list[tuple[float, str]]
    rows: list[tuple[float, float, float, list[tuple[str, float]], str]]


@dataclass(frozen=True, kw_only=True)
class DotPlot:
    """Panels that share their row labels, which end at ``margin``; sizes in px."""

    name: str
    title: str
    description: str
    width: float
    height: float
    margin: float
    labels: list[tuple[float, str]]
    panels: list[Panel]


_PANEL, _GAP, _TOP, _ROW = 340, 70, 34, 26
_LABEL = 28  # letters


def dot_plot(
    name: str, title: str, description: str, labels: Sequence[str], panels: Sequence[tuple[str, Sequence[Line | None]]]
) -> DotPlot:
    """Lay out one line a label in every panel; zero is always on the scale."""
    shown = [shortened(label, _LABEL) for label in labels]
    margin = label_width(shown)
    ys = [_TOP + _ROW * (index + 0.5) for index in range(len(labels))]
    placed = [
        _panel(heading, lines, ys, margin + 16 + position * (_PANEL + _GAP))
        for position, (heading, lines) in enumerate(panels)
    ]
    return DotPlot(
        name=name,
        title=title,
        description=description,
        width=margin + 16 + len(panels) * (_PANEL + _GAP) - _GAP / 2,
        height=_TOP + _ROW * len(labels) + 26,
        margin=margin,
        labels=list(zip(ys, shown, strict=True)),
        panels=placed,
    )


def _panel(heading: str, lines: Sequence[Line | None], ys: Sequence[float], left: float) -> Panel:
    present = [line for line in lines if line is not None]
    values = [value for line in present for value in (*line.stretch, *(value for _, value in line.marks))]
    scale = scale_over([0.0, *values], left, left + _PANEL)
    rows = [
        (y, scale(line.stretch[0]), scale(line.stretch[1]), [(shape, scale(value)) for shape, value in line.marks], line.title)
        for y, line in zip(ys, lines, strict=True)
        if line is not None
    ]  # fmt: skip
    return Panel(title=heading, left=left, right=left + _PANEL, zero=scale(0.0), ticks=scale.ticks(), rows=rows)


def label_width(labels: Iterable[str]) -> float:
    """Room for the longest label at 12 px, in px."""
    return 8 + 7.0 * max(map(len, labels), default=0)


def shortened(text: str, length: int) -> str:
    """
    >>> shortened("a rather long label", 10)
    'a rather …'
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def _tick(value: float, digits: int) -> str:
    return "0" if value == 0 else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
