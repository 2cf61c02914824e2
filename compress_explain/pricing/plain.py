"""What the bare linearisation expects of some edits, whole sublayers and layers included.

Those are too large for it, and how far off it is belongs beside the exact figure rather than out
of sight. Removing a sublayer takes away the output y of its last linear, a change of -y; a layer,
those of its sublayers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import Anatomy
from compress_explain.pricing.linear import Linearised, linearised
from compress_explain.pricing.menu import Candidate
from compress_explain.pricing.slopes import Slopes
from compress_explain.pricing.sums import Sums
from compress_explain.weight_edits import WeightEdit, weight_edit


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
    values = np.full((len(names), len(chosen)), np.nan)
    if not examples.tokenwise and chosen:
        sums = Sums.zeros(len(names), len(chosen))
        slopes, terms = _terms(masks, chosen)
        for each in linearised(slopes, examples, examples.batches(batch_size)):
            summed = torch.stack([_summed(each, places) for places in terms], 1)
            impact = next(Linearised(each.batch, each.decision, [summed], []).impacts())
            sums.add(slice(0, len(chosen)), examples.slice_matrix(each.batch.rows), impact)
        values = sums.totals["loss_change"].numpy() / np.maximum(1, list(examples.counts.values()))[:, None]
    edits = {"component": [each.component for each in chosen], "edit": [each.edit for each in chosen]}
    parts = [
        pd.DataFrame(edits | {"slice": name, "linear_loss_change": row})
        for name, row in zip(names, values, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def _terms(masks: Masks, chosen: Sequence[Candidate]) -> tuple[Slopes, list[list[tuple[int, int]]]]:
    """Slopes for all of the chosen, and the (block, column) that each of them is the sum of."""
    anatomy = masks.anatomy
    groups = {each.component: anatomy.locate(each.component) for each in chosen if each.kind in anatomy.kinds}
    names = list(dict.fromkeys(group.name for group, _ in groups.values()))
    edits = [_weight_edits(anatomy, each) for each in chosen]
    linears: dict[str, list[WeightEdit]] = {}
    for linear, edit in (pair for pairs in edits for pair in pairs):
        mine = linears.setdefault(linear, [])
        if edit not in mine:
            mine.append(edit)
    blocks = {name: len(names) + number for number, name in enumerate(linears)}
    terms = []
    for each, pairs in zip(chosen, edits, strict=True):
        terms.append([(blocks[linear], linears[linear].index(edit)) for linear, edit in pairs])
        if not pairs:
            group, index = groups[each.component]
            terms[-1] = [(names.index(group.name), index)]
    return Slopes(masks, [anatomy.groups[name] for name in names], linears), terms


def _weight_edits(anatomy: Anatomy, candidate: Candidate) -> list[tuple[str, WeightEdit]]:
    """The linears that a candidate edits, and how; a sublayer's or layer's are those that it adds to the stream with."""
    if candidate.kind == "linear":
        return [(candidate.component, weight_edit(candidate.edit))]
    if candidate.kind not in ("sublayer", "layer"):
        return []
    names = [candidate.component] if candidate.kind == "sublayer" else anatomy.layers[candidate.component].sublayers
    sites = {anatomy.groups[group].site for name in names for group in anatomy.sublayers[name].groups}
    return [(linear.name, _Silence()) for linear in anatomy.linears.values() if linear.module in sites]


def _summed(each: Linearised, terms: list[tuple[int, int]]) -> Tensor:
    total = each.changes[terms[0][0]][:, terms[0][1]]
    for block, column in terms[1:]:
        total = total + each.changes[block][:, column]
    return total
