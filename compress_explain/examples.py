"""A split in memory: encoded inputs, labels, and the slices that each row belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

ALL = "all"  # the slice that holds every row


@dataclass(frozen=True)
class Batch:
    """Model inputs of some rows of a split; ``rows`` says which."""

    inputs: dict[str, Tensor]
    rows: Int[np.ndarray, " batch"]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """One split, encoded for one model.

    ``inputs`` maps a model argument to one array a row; rows of different length are padded with
    ``padding`` when batched. ``slices`` always holds :data:`ALL`. ``texts`` is what a person would
    recognise a row by. ``truncated`` counts rows that were longer than the model takes.
    """

    name: str
    inputs: dict[str, list[np.ndarray]] = field(repr=False)
    labels: Int[np.ndarray, " rows"] = field(repr=False)
    slices: dict[str, Bool[np.ndarray, " rows"]] = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    digest: str
    padding: dict[str, int] = field(default_factory=dict, repr=False)
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tokens(self) -> int:
        """The 95th percentile of the row lengths: the size at which FLOPs are counted."""
        lengths = self._lengths()
        return int(np.percentile(lengths, 95)) if lengths is not None else 1

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in batches of ``size``, rows of similar length together."""
        lengths = self._lengths()
        order = np.arange(len(self)) if lengths is None else np.argsort(lengths, kind="stable")
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield Batch({name: self._pad(name, values, rows) for name, values in self.inputs.items()}, rows)

    def slice_matrix(self, rows: Int[np.ndarray, " batch"]) -> Tensor:
        """Membership of ``rows`` in the slices, ``(slices, batch)``, as float."""
        return torch.from_numpy(np.stack([flags[rows] for flags in self.slices.values()]).astype(np.float32))

    def _lengths(self) -> np.ndarray | None:
        if "input_ids" not in self.inputs:
            return None
        return np.array([len(row) for row in self.inputs["input_ids"]])

    def _pad(self, name: str, values: list[np.ndarray], rows: np.ndarray) -> Tensor:
        chosen = [values[row] for row in rows]
        if name not in self.padding:
            return torch.from_numpy(np.stack(chosen))
        width = max(len(row) for row in chosen)
        padded = np.full((len(chosen), width), self.padding[name], dtype=np.int64)
        for target, row in zip(padded, chosen, strict=True):
            target[: len(row)] = row
        return torch.from_numpy(padded)
