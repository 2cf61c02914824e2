"""Where lines over depth and the bands around them go, in small charts that share their axis; templates draw them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from compress_explain.report.charts import Scale, round_values
from compress_explain.report.signal_words import short_depth, told_with_n
from compress_explain.signals.findings import Finding

_BOX = (46.0, 30.0, 326.0, 158.0)  # left, top, right, bottom, in px
_LABELLED = 28  # px from one label of the axis to the next, at least
_MARKED = 16  # depths up to which every one has a mark


@dataclass(frozen=True, kw_only=True)
class Strand:
    """One line before it is placed: ``look`` names its class in the style sheet; quiet ones have no band and no marks."""

    name: str
    look: str
    findings: dict[str, Finding] = field(repr=False)
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One line that is placed: its path, the band of its intervals, and its points as (x, y, title)."""

    look: str
    path: str
    band: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, kw_only=True)
class DepthChart:
    """One small chart; ``level`` is the height of what counts as nothing, ``chosen`` where a layer is marked; sizes in px."""

    name: str
    title: str
    description: str
    width: float
    height: float
    box: tuple[float, float, float, float]
    marked: bool
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    level: float | None
    chosen: float | None
    lines: tuple[Placed, ...]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What charts of one kind share: all depths, and the lowest and highest value."""

    depths: tuple[str, ...]
    low: float
    high: float

    @property
    def along(self) -> Scale:
        return Scale(low=0.0, high=max(1.0, len(self.depths) - 1.0), start=_BOX[0] + 10, stop=_BOX[2] - 10)

    @property
    def up(self) -> Scale:
        return Scale(low=self.low, high=self.high, start=_BOX[3], stop=_BOX[1])

    def labels(self) -> tuple[tuple[float, str], ...]:
        """Of as many depths as there is room for, the first among them."""
        step = (_BOX[2] - _BOX[0] - 20) / max(1, len(self.depths) - 1)
        every = math.ceil(_LABELLED / step)
        every = next((each for each in (1, 2, 4, 5, 8, 10, 16, 20) if each >= every), every)
        places = [0, *range(1, len(self.depths), every)] if every == 1 else range(0, len(self.depths), every)
        return tuple((self.along(place), short_depth(self.depths[place], self.depths)) for place in places)


def axes_over(depths: tuple[str, ...], strands: Iterable[Strand], *always: float) -> Axes:
    """Axes that hold every value and every interval, and some values ``always``."""
    seen = list(always)
    for strand in strands:
        for each in strand.findings.values():
            values = (each.value,) if strand.quiet else (each.value, each.low, each.high)
            seen += [value for value in values if math.isfinite(value)]
    low, high = min(seen), max(seen)
    air = 0.04 * (high - low) or 0.5
    return Axes(depths=depths, low=low - air, high=high + air)


def depth_chart(
    name: str, title: str, axes: Axes, strands: Sequence[Strand], *, level: float | None = None, chosen: str = ""
) -> DepthChart:
    """Place the lines of one chart. A depth at which there is no figure is left out of its line."""
    lines = tuple(_placed(strand, axes) for strand in strands if any(map(_finite, strand.findings.values())))
    return DepthChart(
        name=name, title=title, width=_BOX[2] + 8, height=_BOX[3] + 26, box=_BOX,
        description=f"By depth, from the embedding to the last layer: {', '.join(strand.name for strand in strands)}.",
        marked=len(axes.depths) <= _MARKED,
        across=axes.labels(),
        up=tuple((axes.up(value), text.lstrip("+")) for value, text in round_values(axes.low, axes.high)),
        level=None if level is None else axes.up(level),
        chosen=axes.along(axes.depths.index(chosen)) if chosen in axes.depths else None,
        lines=lines,
    )  # fmt: skip


def _placed(strand: Strand, axes: Axes) -> Placed:
    told = [
        (axes.along(place), strand.findings[depth], depth)
        for place, depth in enumerate(axes.depths)
        if depth in strand.findings and _finite(strand.findings[depth])
    ]
    points = tuple((x, axes.up(each.value), f"{strand.name}, {depth}: {told_with_n(each)}") for x, each, depth in told)
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y, _ in points)
    return Placed(look=strand.look, path=path, band="" if strand.quiet else _band(told, axes), points=points)


def _band(told: Sequence[tuple[float, Finding, str]], axes: Axes) -> str:
    bounded = [(x, each) for x, each, _ in told if math.isfinite(each.low) and math.isfinite(each.high)]
    if not bounded:
        return ""
    there = [f"{x:g} {axes.up(each.high):g}" for x, each in bounded]
    back = [f"{x:g} {axes.up(each.low):g}" for x, each in reversed(bounded)]
    return f"M{'L'.join(there)}L{'L'.join(back)}Z"


def _finite(finding: Finding) -> bool:
    return math.isfinite(finding.value)
