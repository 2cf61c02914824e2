"""What was removed, drawn: a grid where components are few enough to be seen one by one, else bars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from compress_explain.report.charts import label_width
from compress_explain.report.labels import group_labels, plural
from compress_explain.report.numbers import count, signed

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

STATUSES = ("kept", "restored", "removed")
_GRID_COLUMNS = 64  # a group with more components is drawn as a bar
_TOLD_CELLS = 1500  # beyond it single cells carry no text, to keep the file small
_SHADES = 4


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One component; ``shade`` in 0..3 says how dear it was among its kind."""

    status: str
    shade: int
    title: str | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One group: what became of its components. ``gone`` lists the indices of the removed ones."""

    label: str
    counts: dict[str, int]
    expected_kl: float
    gone: str
    cells: tuple[Cell, ...]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class KindFigure:
    """All components of one kind, group by group."""

    kind: str
    plural: str
    description: str
    rows: tuple[Row, ...]
    columns: int

    @property
    def margin(self) -> float:
        """Where the row labels end, in px."""
        return label_width(row.label for row in self.rows)

    @property
    def as_grid(self) -> bool:
        return self.columns <= _GRID_COLUMNS


def removed(run: Run) -> list[KindFigure]:
    """One figure a kind, in the order of the anatomy."""
    groups: dict[str, dict[str, Any]] = run.anatomy["groups"]
    table = run.components.copy()
    table["group"] = table["component"].str.rpartition(".")[0]
    order = dict.fromkeys(group["kind"] for group in groups.values())
    return [
        _figure(kind, table[table["kind"] == kind], [n for n in groups if groups[n]["kind"] == kind]) for kind in order
    ]


def _figure(kind: str, table: pd.DataFrame, names: list[str]) -> KindFigure:
    parts = dict(iter(table.groupby("group", sort=False)))
    columns = max(len(part) for part in parts.values())
    drawn = columns <= _GRID_COLUMNS
    edges = np.quantile(table["expected_kl"], np.linspace(0, 1, _SHADES + 1)[1:-1])
    told = len(table) <= _TOLD_CELLS
    labels = group_labels(names)
    rows = tuple(_row(labels[name], parts[name], _cells(parts[name], edges, told) if drawn else ()) for name in names)
    name = plural(kind)
    totals = {status: int((table["status"] == status).sum()) for status in STATUSES}
    restored = f"{count(totals['restored'])} were removed and restored, " if totals["restored"] else ""
    description = (
        f"Of {count(len(table))} {name}, {count(totals['removed'])} are removed, {restored}"
        f"{count(totals['kept'])} were never touched."
    )
    return KindFigure(kind=kind, plural=name, description=description, rows=rows, columns=columns)


def _row(label: str, part: pd.DataFrame, cells: tuple[Cell, ...]) -> Row:
    gone = [int(name.rpartition(".")[2]) for name in part.loc[part["status"] == "removed", "component"]]
    return Row(
        label=label,
        counts={status: int((part["status"] == status).sum()) for status in STATUSES},
        expected_kl=float(part["expected_kl"].mean()),
        gone=spans(gone),
        cells=cells,
    )


def _cells(part: pd.DataFrame, edges: np.ndarray, told: bool) -> tuple[Cell, ...]:
    shades = np.searchsorted(edges, part["expected_kl"], side="right").tolist()
    rows: Iterable[dict[str, Any]] = part.to_dict("records")  # type: ignore[assignment]
    return tuple(
        Cell(status=row["status"], shade=shade, title=_story(row) if told else None)
        for row, shade in zip(rows, shades, strict=True)
    )


def _story(row: dict[str, Any]) -> str:
    price = f"price: loss {signed(row['expected_loss_change'])} nats, KL {row['expected_kl']:.4f} nats"
    reasons = [
        f"{word} at {row[f'{word}_step']}: {row[f'{word}_reason']}"
        for word in ("removed", "restored")
        if isinstance(row[f"{word}_reason"], str)
    ]
    return "; ".join([f"{row['component']}: {row['status']}", price, *reasons])


def spans(indices: list[int]) -> str:
    """
    >>> spans([0, 7, 8, 9, 11])
    '0, 7–9, 11'
    """
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs) or "none"
