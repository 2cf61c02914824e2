"""A split in memory: encoded inputs, labels, and the slices that each row or token belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
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
    recognise a row by. ``truncated`` counts rows that were longer than the ``max_length`` tokens that
    they are cut to; None where rows are not texts.

    ``tokenwise`` examples are those of a language model: position t of a row predicts the token at
    t + 1, so a row of L tokens predicts L - 1, and ``labels`` are all 0. Their ``token_slices`` hold,
    for each row, one flag a predicted token.
    """

    name: str
    inputs: dict[str, list[np.ndarray]] = field(repr=False)
    labels: Int[np.ndarray, " rows"] = field(repr=False)
    slices: dict[str, Bool[np.ndarray, " rows"]] = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    digest: str
    padding: dict[str, int] = field(default_factory=dict, repr=False)
    truncated: int = 0
    max_length: int | None = None
    tokenwise: bool = False
    token_slices: dict[str, list[np.ndarray]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, rows: int, seed: int) -> Examples:
        """That many rows drawn at random; all of them when there are no more."""
        if rows >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), rows, replace=False))
        return replace(
            self,
            inputs={name: [values[row] for row in chosen] for name, values in self.inputs.items()},
            labels=self.labels[chosen],
            slices={name: flags[chosen] for name, flags in self.slices.items()},
            texts=tuple(self.texts[row] for row in chosen) if self.texts else (),
            token_slices={name: [flags[row] for row in chosen] for name, flags in self.token_slices.items()},
            digest=hashlib.sha256(f"{self.digest} {chosen.tolist()}".encode()).hexdigest(),
        )

    @cached_property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Tokens of each row; 1 where the inputs are not tokens and so all of one size."""
        if "input_ids" not in self.inputs:
            return np.ones(len(self), dtype=np.int64)
        return np.array([len(row) for row in self.inputs["input_ids"]])

    @property
    def tokens(self) -> int:
        """The 95th percentile of the row lengths: the size at which FLOPs are counted."""
        return int(np.percentile(self.lengths, 95))

    @property
    def slice_names(self) -> tuple[str, ...]:
        """Slices of rows, :data:`ALL` first, then slices of tokens."""
        return (*self.slices, *self.token_slices)

    @property
    def counts(self) -> dict[str, int]:
        """Members of each slice: rows, or predicted tokens if ``tokenwise``."""
        weights = np.array([len(row) - 1 for row in self.inputs["input_ids"]]) if self.tokenwise else 1
        rows = {name: int((flags * weights).sum()) for name, flags in self.slices.items()}
        return rows | {name: int(sum(map(np.sum, flags))) for name, flags in self.token_slices.items()}

    def batches(self, size: int, rows: Int[np.ndarray, " chosen"] | None = None) -> Iterator[Batch]:
        """All rows, or the chosen ones, in batches of ``size``, rows of similar length together, the longest first.

        What takes most memory comes at once: it fits or it does not, and what follows fits in its place.
        """
        chosen = np.arange(len(self)) if rows is None else rows
        order = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])

    def batch(self, rows: Int[np.ndarray, " chosen"]) -> Batch:
        """Those rows, in that order."""
        return Batch({name: self._pad(name, values, rows) for name, values in self.inputs.items()}, rows)

    def slice_matrix(self, rows: Int[np.ndarray, " batch"]) -> Tensor:
        """Membership of ``rows`` in the slices, ``(slices, batch)``, as float."""
        return torch.from_numpy(np.stack([flags[rows] for flags in self.slices.values()]).astype(np.float32))

    def targets(self, batch: Batch) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """The token that each position of a ``tokenwise`` batch predicts, and whether it predicts one.

        The last position of a row and its padding predict none; the token given there is 0.
        """
        ids = batch.inputs["input_ids"]
        lengths = torch.tensor([len(self.inputs["input_ids"][row]) for row in batch.rows], device=ids.device)
        predicts = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None] - 1
        return torch.where(predicts, ids.roll(-1, dims=1), 0), predicts

    def token_membership(self, batch: Batch) -> Float[Tensor, "slices batch tokens"]:
        """Membership of each position of a ``tokenwise`` batch in the slices of :attr:`slice_names`.

        Of a slice of rows, all predicted tokens of the row are members.
        """
        _, predicts = self.targets(batch)
        members = torch.zeros(len(self.slice_names), *predicts.shape)
        for index, flags in enumerate(self.slices.values()):
            members[index] = torch.from_numpy(flags[batch.rows])[:, None] & predicts.cpu()
        for index, rows in enumerate(self.token_slices.values(), start=len(self.slices)):
            for place, row in enumerate(batch.rows):
                members[index, place, : len(rows[row])] = torch.from_numpy(rows[row])
        return members.to(predicts.device)

    def _pad(self, name: str, values: list[np.ndarray], rows: np.ndarray) -> Tensor:
        chosen = [values[row] for row in rows]
        if name not in self.padding:
            return torch.from_numpy(np.stack(chosen))
        width = max(len(row) for row in chosen)
        padded = np.full((len(chosen), width), self.padding[name], dtype=np.int64)
        for target, row in zip(padded, chosen, strict=True):
            target[: len(row)] = row
        return torch.from_numpy(padded)
