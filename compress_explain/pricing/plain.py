"""What the bare linearisation expects of some edits, whole sublayers and layers included.

Those are too large for it, and how far off it is belongs beside the exact figure rather than out
of sight. Removing a sublayer takes away the output y of its last linear, a change of -y; a layer,
those of its sublayers together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from compress_explain.anatomy import Anatomy, Linear
from compress_explain.examples import Examples
from compress_explain.masks import Masks
from compress_explain.pricing.linear import Linearised, linearised
from compress_explain.pricing.menu import Candidate
from compress_explain.pricing.slopes import Slopes
from compress_explain.pricing.sums import Sums
from compress_explain.weight_edits import weight_edit


@dataclass(frozen=True)
class _Silence:
    """A linear whose output is taken away."""

    name: str = "silence"
    batchwise: bool = False

    def prepare(self, weight: Tensor, bias: Tensor | None) -> _Silenced:
        return _Silenced(torch.zeros_like(weight, dtype=torch.float32))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return 0

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return 0

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 0


@dataclass(frozen=True)
class _Silenced:
    weight: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return torch.zeros(*x.shape[:-1], len(self.weight))

    def delta(self, x: Tensor, y: Tensor) -> Tensor:
        return -y.float()


def plain_loss_change(masks: Masks, examples: Examples, chosen: Sequence[Candidate], batch_size: int) -> pd.DataFrame:
    """``linear_loss_change`` of each chosen edit on each slice, to first order; NaN for language models.

    Columns: component, edit, slice, linear_loss_change.
    """
    names = examples.slice_names
    if examples.tokenwise:
        values = np.full((len(names), len(chosen)), np.nan)
    else:
        sums = Sums.zeros(len(names), len(chosen))
        for part in _parts(masks, chosen):
            _add(sums, part, masks, examples, batch_size)
        values = sums.totals["loss_change"].numpy() / np.maximum(1, list(examples.counts.values()))[:, None]
    edits = {"component": [each.component for each in chosen], "edit": [each.edit for each in chosen]}
    parts = [
        pd.DataFrame(edits | {"slice": name, "linear_loss_change": row})
        for name, row in zip(names, values, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class _Part:
    """Some chosen edits that one set of slopes linearises: each a sum of columns of some blocks."""

    slopes: Slopes
    columns: list[tuple[int, list[tuple[int, int]]]]  # place among the chosen; (block, column) of its terms


def _parts(masks: Masks, chosen: Sequence[Candidate]) -> Iterator[_Part]:
    anatomy = masks.anatomy
    located = [
        (place, *anatomy.locate(each.component)) for place, each in enumerate(chosen) if each.kind in anatomy.kinds
    ]
    groups = list({group.name: group for _, group, _ in located}.values())
    if groups:
        blocks = {group.name: number for number, group in enumerate(groups)}
        yield _Part(Slopes(masks, groups), [(place, [(blocks[group.name], index)]) for place, group, index in located])
    of_linears = [(place, each) for place, each in enumerate(chosen) if each.kind == "linear"]
    if of_linears:
        edits = list(dict.fromkeys(each.edit for _, each in of_linears))
        linears = list(dict.fromkeys(each.component for _, each in of_linears))
        slopes = Slopes(masks, [], [anatomy.linears[name] for name in linears], [weight_edit(edit) for edit in edits])
        terms = [(place, [(linears.index(each.component), edits.index(each.edit))]) for place, each in of_linears]
        yield _Part(slopes, terms)
    wholes = [
        (place, _last_linears(anatomy, each)) for place, each in enumerate(chosen) if each.kind in ("sublayer", "layer")
    ]
    if wholes:
        last = list({linear.name: linear for _, linears in wholes for linear in linears}.values())
        yield _Part(
            Slopes(masks, [], last, [_Silence()]),
            [(place, [(last.index(linear), 0) for linear in linears]) for place, linears in wholes],
        )


def _last_linears(anatomy: Anatomy, candidate: Candidate) -> list[Linear]:
    """The linears whose outputs a sublayer, or each sublayer of a layer, adds to the residual stream."""
    names = [candidate.component] if candidate.kind == "sublayer" else anatomy.layers[candidate.component].sublayers
    sites = {anatomy.groups[group].site for name in names for group in anatomy.sublayers[name].groups}
    return [linear for linear in anatomy.linears.values() if linear.module in sites]


def _add(sums: Sums, part: _Part, masks: Masks, examples: Examples, batch_size: int) -> None:
    for each in linearised(part.slopes, examples, examples.batches(batch_size)):
        membership = examples.slice_matrix(each.batch.rows)
        stacked = [_summed(each, terms) for _, terms in part.columns]
        summed = Linearised(each.batch, each.decision, [torch.stack(stacked, 1)], [])
        loss = next(summed.impacts())["loss_change"]
        places = [place for place, _ in part.columns]
        sums.totals["loss_change"][:, places] += (membership.to(loss.dtype) @ loss).double()


def _summed(each: Linearised, terms: list[tuple[int, int]]) -> Tensor:
    total = each.changes[terms[0][0]][:, terms[0][1]]
    for block, column in terms[1:]:
        total = total + each.changes[block][:, column]
    return total
