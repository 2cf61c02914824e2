"""How the prices of many components spread within each layer: a bar of quantiles for those that stayed and those that went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from compress_explain.report.charts import label_width

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_WIDTH, _TOP = 560, 28
_ROW, _LOW_ROW, _MANY = 30, 22, 24  # rows are lower where there are many layers
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The values of one layer before they are placed, and what is written beside them."""

    label: str
    stayed: Float[np.ndarray, " some"]
    gone: Float[np.ndarray, " others"]
    beside: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Quantiles from 5% to 95% as positions, and the largest value, in px."""

    status: str
    y: float
    places: tuple[float, ...]
    most: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """All layers on one logarithmic scale."""

    name: str
    title: str
    description: str
    width: float
    height: float
    margin: float
    right: float
    ticks: tuple[tuple[float, str], ...]
    heads: tuple[tuple[float, str], ...]
    rows: tuple[tuple[float, str, tuple[tuple[float, str], ...]], ...]
    bars: tuple[Bar, ...]
    thick: float


def spread(name: str, title: str, description: str, layers: Sequence[Layer], heads: Sequence[str]) -> Spread:
    """Lay out two bars a layer. Values at or below a millionth of the largest stand at the left end."""
    top = max(float(values.max()) for layer in layers for values in (layer.stayed, layer.gone) if len(values))
    high = math.ceil(math.log10(top)) if top > 0 else 0
    everything = np.concatenate([values for layer in layers for values in (layer.stayed, layer.gone)])
    positive = everything[everything > 0]
    low = max(high - 7, math.floor(math.log10(float(np.quantile(positive, 0.02))))) if len(positive) else high - 1
    low = min(low, high - 1)
    left = label_width(layer.label for layer in layers) + 12
    row = _ROW if len(layers) <= _MANY else _LOW_ROW

    def place(value: float) -> float:
        exponent = math.log10(value) if value > 0 else low
        return round(left + (min(max(exponent, low), high) - low) / (high - low) * _WIDTH, 1)

    bars = [
        _bar(status, values, place, round(_TOP + row * (number + share), 1), layer.label)
        for number, layer in enumerate(layers)
        for status, values, share in (("kept", layer.stayed, 0.3), ("gone", layer.gone, 0.67))
        if len(values)
    ]
    columns = [left + _WIDTH + 130 + 110 * index for index in range(len(heads))]
    return Spread(
        name=name,
        title=title,
        description=description,
        width=left + _WIDTH + 110 * len(heads) + 30,
        height=_TOP + row * len(layers) + 44,
        margin=left - 12,
        right=left + _WIDTH,
        ticks=tuple((place(10.0**power), power_text(power)) for power in range(low, high + 1)),
        heads=tuple(zip(columns, heads, strict=True)),
        rows=tuple(
            (_TOP + row * (number + 0.5), layer.label, tuple(zip(columns, layer.beside, strict=True)))
            for number, layer in enumerate(layers)
        ),
        bars=tuple(bars),
        thick=8 if row == _ROW else 6,
    )


def power_text(power: int) -> str:
    """
    >>> power_text(-5), power_text(0)
    ('10⁻⁵', '1')
    """
    return "1" if power == 0 else "10" + str(power).translate(_SUPERSCRIPTS)


def _bar(status: str, values: Float[np.ndarray, " some"], place: Callable[[float], float], y: float, label: str) -> Bar:
    quantiles = np.quantile(values, _QUANTILES)
    word = "stayed" if status == "kept" else "removed"
    title = (
        f"{label}, {len(values):,} {word}: median {quantiles[2]:.2g}, 5% to 95% {quantiles[0]:.2g} to {quantiles[4]:.2g}, "
        f"largest {values.max():.2g} nats"
    )
    places = tuple(place(float(each)) for each in quantiles)
    return Bar(status=status, y=y, places=places, most=place(float(values.max())), title=title)
