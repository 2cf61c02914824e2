"""Running sums of impacts, per slice and edit: what a shard of work returns and the merged result is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from compress_explain.pricing.impact import IMPACTS, Impact

_LOSS_SQUARED, _LOSS_BY_UNITS = "loss_squared", "loss_by_units"
_SINGLE = ("flow", "units", "units_squared", "rows", "moves")


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums over examples in double precision; every array ``(slices, columns)``.

    ``units`` (slices) counts what means are taken over: rows, or the predicted tokens of a
    language model; ``units_squared`` adds up its square over rows, and ``rows`` counts the rows
    that have any. ``flow`` (columns) adds up squared loss gradients, ``moves`` (numbers, columns)
    the moves of softened predictions, in no numbers unless they were asked for.
    """

    totals: dict[str, Float[Tensor, "slices columns"]] = field(repr=False)
    flow: Float[Tensor, " columns"] = field(repr=False)
    units: Float[Tensor, " slices"]
    units_squared: Float[Tensor, " slices"]
    rows: Float[Tensor, " slices"]
    moves: Float[Tensor, "numbers columns"] = field(repr=False)

    @classmethod
    def zeros(cls, slices: int, columns: int, numbers: int = 0) -> Sums:
        names = (*IMPACTS, _LOSS_SQUARED, _LOSS_BY_UNITS)
        return cls(
            totals={name: torch.zeros(slices, columns, dtype=torch.float64) for name in names},
            flow=torch.zeros(columns, dtype=torch.float64),
            units=torch.zeros(slices, dtype=torch.float64),
            units_squared=torch.zeros(slices, dtype=torch.float64),
            rows=torch.zeros(slices, dtype=torch.float64),
            moves=torch.zeros(numbers, columns),
        )

    def count(self, units: Float[Tensor, "slices batch"]) -> None:
        """Count what each row of a batch adds to each slice; once a batch."""
        units = units.double()
        self.units.add_(units.sum(1))
        self.units_squared.add_(units.square().sum(1))
        self.rows.add_((units > 0).sum(1))

    def count_as(self, other: Sums) -> None:
        """Take over the counts of sums over the same rows."""
        for mine, theirs in (
            (self.units, other.units),
            (self.units_squared, other.units_squared),
            (self.rows, other.rows),
        ):
            mine.copy_(theirs)

    def add(
        self,
        columns: slice,
        membership: Float[Tensor, "some_slices batch"],
        impact: Impact,
        *,
        units: Float[Tensor, " batch"] | None = None,
        slices: slice = slice(None),
    ) -> None:
        """Add the impacts ``(batch, columns)`` of a batch to some of the slices.

        Each value is that of a whole row: when a row has several ``units``, the sum over them.
        """
        loss = impact["loss_change"]
        membership = membership.to(loss.dtype)
        weighted = membership if units is None else membership * units.to(loss.dtype)
        for name, values in impact.items():
            self.totals[name][slices, columns] += membership @ values
        self.totals[_LOSS_SQUARED][slices, columns] += membership @ loss.square()
        self.totals[_LOSS_BY_UNITS][slices, columns] += weighted @ loss

    def means(self) -> dict[str, Float[np.ndarray, "slices columns"]]:
        """Mean impact per unit."""
        units = self.units[:, None].clamp(min=1)
        return {name: (self.totals[name] / units).numpy() for name in IMPACTS}

    def standard_error(self) -> Float[np.ndarray, "slices columns"]:
        """Standard error of the mean loss change, rows being independent of one another.

        For rows of several units it is that of a ratio of sums (Cochran 1977, section 6.3).
        """
        units, rows = self.units[:, None].clamp(min=1), self.rows[:, None]
        mean = self.totals["loss_change"] / units
        squares = self.totals[_LOSS_SQUARED] - 2 * mean * self.totals[_LOSS_BY_UNITS]
        squares = (squares + mean.square() * self.units_squared[:, None]).clamp(min=0)
        return ((squares * rows / (rows - 1).clamp(min=1)).sqrt() / units).numpy()

    def save(self, path: Path) -> None:
        arrays = {f"total_{name}": total.numpy() for name, total in self.totals.items()}
        others = {name: getattr(self, name).numpy() for name in _SINGLE}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **others)

    @classmethod
    def load(cls, path: Path) -> Sums:
        with np.load(path, allow_pickle=False) as stored:
            names = [name.removeprefix("total_") for name in stored.files if name.startswith("total_")]
            totals = {name: torch.from_numpy(stored[f"total_{name}"]) for name in names}
            others = {name: torch.from_numpy(stored[name]) for name in _SINGLE}
        return cls(totals=totals, **others)


def over_examples(parts: Iterable[Sums]) -> Sums:
    """The sums of disjoint sets of rows, added in the order given."""
    parts = iter(parts)
    first = next(parts)
    for part in parts:
        for name, total in part.totals.items():
            first.totals[name].add_(total)
        for name in _SINGLE:
            getattr(first, name).add_(getattr(part, name))
    return first


def over_columns(parts: Iterable[Sums]) -> Sums:
    """The sums of disjoint sets of edits over the same rows, side by side in the order given."""
    every = list(parts)
    first = every[0]
    return Sums(
        totals={name: torch.cat([part.totals[name] for part in every], 1) for name in first.totals},
        flow=torch.cat([part.flow for part in every]),
        units=first.units,
        units_squared=first.units_squared,
        rows=first.rows,
        moves=torch.cat([part.moves for part in every], 1),
    )
