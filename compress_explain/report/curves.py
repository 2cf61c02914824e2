"""Where the lines of a chart of accuracy by the size of an attack go; the template draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress_explain.report.charts import Scale, round_values
from compress_explain.report.numbers import plain

_BOX = (56.0, 20.0, 356.0, 190.0)  # left, top, right, bottom, in px


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One model's line, and its points as (x, y, title)."""

    side: str
    path: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Both models in one frame ``box`` (left, top, right, bottom); sizes in px."""

    name: str
    title: str
    width: float
    height: float
    box: tuple[float, float, float, float]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    lines: tuple[Curve, ...]


def curves(name: str, title: str, strengths: Sequence[float], accuracies: Mapping[str, Sequence[float]]) -> Curves:
    """Accuracies from 0 to 1 by strength, one line a model."""
    left, top, right, bottom = _BOX
    along = Scale(low=0.0, high=max(strengths) or 1.0, start=left + 10, stop=right - 10)
    up = Scale(low=0.0, high=1.0, start=bottom, stop=top)
    lines = tuple(
        Curve(
            side=side,
            path="M" + "L".join(f"{along(x)} {up(y)}" for x, y in zip(strengths, values, strict=True)),
            points=tuple(
                (along(x), up(y), f"{side}, ε = {x:g}: {plain(y)}") for x, y in zip(strengths, values, strict=True)
            ),
        )
        for side, values in accuracies.items()
    )
    return Curves(
        name=name, title=title, width=right + 14, height=bottom + 42, box=_BOX,
        across=tuple((along(x), f"{x:g}") for x in strengths),
        up=tuple((up(value), text.lstrip("+")) for value, text in round_values(0.0, 1.0)),
        lines=lines,
    )  # fmt: skip
