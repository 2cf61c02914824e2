"""Heat maps of layers x components: where their cells, marks and labels go, and which shade they have.

Colour strength grows with the square root of a value, so that small ones are seen beside large ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from compress_explain.report.charts import label_width

SHADES = 8  # of each direction
_END = 0.98  # quantile of the magnitudes at which colours end


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a map. ``sure`` says which values are told from 0 by their interval."""

    label: str
    values: Float[np.ndarray, " components"]
    sure: Bool[np.ndarray, " components"]
    statuses: Sequence[str]
    titles: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One component: position, size and shade of what is drawn, in px."""

    x: float
    y: float
    width: float
    height: float
    shade: str
    title: str


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A map ready to be drawn: single ``cells``, or one path a shade where they carry no text."""

    name: str
    title: str
    description: str
    width: float
    height: float
    left: float
    top: float
    grid: tuple[float, float]
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    cells: tuple[Cell, ...]
    paths: tuple[tuple[str, str], ...]
    crosses: str
    rings: tuple[tuple[float, float], ...]
    ring: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a map may become and its cells may be, in px; ``labelled`` maps have row and column labels."""

    width: float
    height: float
    widest: float
    tallest: float
    labelled: bool


LARGE = Size(width=560, height=540, widest=30, tallest=24, labelled=True)
SMALL = Size(width=172, height=172, widest=20, tallest=18, labelled=False)


def heat_map(name: str, title: str, description: str, lines: Sequence[Line], limit: float, size: Size) -> HeatMap:
    """Lay out one row a line; values at ``limit`` and beyond have the strongest colour."""
    columns = max(len(line.values) for line in lines)
    wide = min(size.widest, max(3.0, size.width / columns))
    tall = min(size.tallest, max(3.0, size.height / len(lines)))
    left = label_width(line.label for line in lines) + 8 if size.labelled else 1.0
    top = 20.0 if size.labelled else 1.0
    told = all(line.titles is not None for line in lines)
    placed = [
        (line, index, left + index * wide, top + number * tall)
        for number, line in enumerate(lines)
        for index in range(len(line.values))
    ]
    shapes = [(_cell(line, index, x, y, wide, tall, limit)) for line, index, x, y in placed]
    centres = {status: [(round(x + wide / 2, 1), round(y + tall / 2, 1)) for line, index, x, y in placed
                        if line.statuses[index] == status] for status in ("removed", "restored")}  # fmt: skip
    arm = round(0.22 * min(wide, tall), 1)
    return HeatMap(
        name=name,
        title=title,
        description=description,
        width=round(left + columns * wide + 2, 1),
        height=round(top + len(lines) * tall + 2, 1),
        left=left,
        top=top,
        grid=(round(columns * wide, 1), round(len(lines) * tall, 1)),
        rows=_row_labels(lines, top, tall) if size.labelled else (),
        columns=_column_labels(columns, left, wide) if size.labelled else (),
        cells=tuple(shapes) if told else (),
        paths=() if told else _paths(shapes),
        crosses="".join(f"M{x - arm:g} {y - arm:g}l{2 * arm:g} {2 * arm:g}m0-{2 * arm:g}l-{2 * arm:g} {2 * arm:g}"
                        for x, y in centres["removed"]),
        rings=tuple(centres["restored"]),
        ring=round(0.26 * min(wide, tall), 1),
    )  # fmt: skip


def colour_end(values: Iterable[Float[np.ndarray, ...]]) -> float:
    """Where colours end: a high quantile of all magnitudes, at two digits, so that a few cannot hide the rest.

    >>> import numpy as np
    >>> colour_end([np.linspace(-1, 1, 101), np.array([40.0])])
    1.0
    """
    magnitudes = np.abs(np.concatenate([np.ravel(each) for each in values]))
    end = float(np.quantile(magnitudes, _END)) or float(magnitudes.max())
    return float(f"{end:.2g}") if end > 0 else 1.0


def shade(value: float, limit: float) -> str:
    """The class of a colour: direction and strength.

    >>> shade(0.5, 0.5), shade(-0.125, 0.5), shade(0.0001, 0.5)
    ('up8', 'down4', 'none')
    """
    strength = round(SHADES * min(1.0, abs(value) / limit) ** 0.5)
    return f"{'up' if value > 0 else 'down'}{strength}" if strength else "none"


def key(limit: float) -> list[tuple[str, str]]:
    """The colour scale from the lowest to the highest: shades, some of them with the value they stand for.

    >>> [text for _, text in key(0.19) if text]
    ['−0.19', '−0.048', '0 nats', '+0.048', '+0.19']
    """
    steps = range(-SHADES, SHADES + 1)
    told = {-SHADES, -SHADES // 2, 0, SHADES // 2, SHADES}
    values = [(step, limit * (step / SHADES) ** 2 * (1 if step > 0 else -1)) for step in steps]
    return [(shade(value, limit), _told(value) if step in told else "") for step, value in values]


def _told(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−") if value else "0 nats"


def _cell(line: Line, index: int, x: float, y: float, wide: float, tall: float, limit: float) -> Cell:
    """The whole cell where the value is told from 0, its middle where it is not."""
    gap = 0.5 if min(wide, tall) < 8 else 1.0
    inset = (gap, gap) if line.sure[index] else (0.28 * wide, 0.28 * tall)
    return Cell(
        x=round(x + inset[0], 1),
        y=round(y + inset[1], 1),
        width=round(wide - 2 * inset[0], 1),
        height=round(tall - 2 * inset[1], 1),
        shade=shade(float(line.values[index]), limit),
        title=line.titles[index] if line.titles is not None else "",
    )


def _paths(cells: Iterable[Cell]) -> tuple[tuple[str, str], ...]:
    shapes: dict[str, list[str]] = {}
    for cell in cells:
        if cell.shade != "none":
            path = f"M{cell.x:g} {cell.y:g}h{cell.width:g}v{cell.height:g}h-{cell.width:g}z"
            shapes.setdefault(cell.shade, []).append(path)
    return tuple((name, "".join(parts)) for name, parts in sorted(shapes.items()))


def _row_labels(lines: Sequence[Line], top: float, tall: float) -> tuple[tuple[float, str], ...]:
    every = 1 if tall >= 13 else 2 if tall >= 8 else 4
    return tuple(
        (round(top + (number + 0.5) * tall, 1), line.label) for number, line in enumerate(lines) if number % every == 0
    )


def _column_labels(columns: int, left: float, wide: float) -> tuple[tuple[float, str], ...]:
    every = 1 if wide >= 18 else 2 if wide >= 13 else 5
    return tuple((round(left + (index + 0.5) * wide, 1), str(index)) for index in range(0, columns, every))
