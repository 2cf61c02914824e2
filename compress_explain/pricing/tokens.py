"""Edits of language models: a Gauss-Newton estimate from a few random projections of the logits.

A row has a decision at every token and each has a whole vocabulary of logits z, far too many for a
backward pass each. Per row one backward pass gives the first-order change of the summed loss, and
each random projection v gives one sample of the second-order term: with H the Hessian of the loss
in the logits and A A' = H, the square of <A v, dz> has the expectation dz' H dz when the entries of
v are independent signs (Martens 2010; Hutchinson 1990). Half of it is also the KL divergence to
second order. Flips and Brier scores do not follow from these and are left out (NaN).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compress_explain.data.examples import Batch, Examples
from compress_explain.pricing.impact import Impact
from compress_explain.pricing.slopes import Slopes, frozen
from compress_explain.pricing.sums import Sums


@dataclass(frozen=True)
class Cell:
    """A set of predicted tokens of a batch that is priced as one: which slices it stands for."""

    weights: Float[Tensor, "batch tokens"]
    slices: slice
    membership: Float[Tensor, "some_slices batch"]


def add_gauss_newton(
    sums: Sums, slopes: Slopes, examples: Examples, batches: Iterable[Batch], *, projections: int, seed: int
) -> Iterator[int]:
    """Add the estimate for every edit of ``slopes`` to ``sums``; yields the rows of each batch as they are done.

    Takes ``1 + projections`` backward passes, and as many again for each slice of tokens.
    """
    with frozen(slopes.masks.model), slopes:
        for batch in batches:
            targets, cells = _cells(examples, batch)
            sums.count(torch.cat([cell.membership * cell.weights.sum(1) for cell in cells]))
            with torch.enable_grad():
                logits = examples.decided_on(batch, slopes.logits(batch.inputs))
                logits = logits.view(len(targets), targets.shape[1], -1)  # a classifier decides once a row
                _add_batch(sums, slopes, logits, targets, cells, _signs(logits, batch, projections, seed))
            slopes.clear()
            yield len(batch.rows)


def _add_batch(
    sums: Sums,
    slopes: Slopes,
    logits: Float[Tensor, "batch tokens vocabulary"],
    targets: Int[Tensor, "batch tokens"],
    cells: list[Cell],
    signs: list[Float[Tensor, "batch tokens vocabulary"]],
) -> None:
    probability = logits.detach().softmax(-1)
    error = probability.clone()
    error.scatter_add_(2, targets[..., None], torch.full_like(targets, -1, dtype=error.dtype)[..., None])
    for number, cell in enumerate(cells, start=1):
        weights = cell.weights[..., None].to(logits.dtype)
        gradients = slopes.gradients(logits, error * weights, last=False)
        first = [block[..., 0] for block in slopes.contract([gradients])]
        squares = [torch.zeros_like(block) for block in first]
        for index, sign in enumerate(signs, start=1):
            last = number == len(cells) and index == len(signs)
            projected = slopes.contract([slopes.gradients(logits, _root(probability, sign) * weights, last=last)])
            squares = [total + block[..., 0].square() for total, block in zip(squares, projected, strict=True)]
        units = cell.weights.sum(1)
        for columns, block, square in zip(slopes.columns, first, squares, strict=True):
            impact = _impact(block, square / len(signs))
            sums.add(columns, cell.membership, impact, units=units, slices=cell.slices)
        if cell.slices.start == 0:
            for index, gradient in enumerate(gradients[: len(slopes.groups)]):
                sums.flow[slopes.columns[index]] += slopes.flow(index, gradient).double().sum(0)


def _impact(first: Tensor, square: Tensor) -> Impact:
    """Per row: first-order loss plus half the square; the square's root is how far the outputs move."""
    unknown = torch.full_like(first, torch.nan)
    return {
        "loss_change": first + square / 2,
        "kl": square / 2,
        "soft_kl": unknown,
        "flips_to_wrong": unknown,
        "flips_to_right": unknown,
        "brier_change": unknown,
        "logit_move": square.sqrt(),
    }


def _root(probability: Tensor, sign: Tensor) -> Tensor:
    """A v for A = diag(sqrt p) - p sqrt(p)', so that A A' = diag(p) - p p'."""
    root = probability.sqrt() * sign
    return root - probability * root.sum(-1, keepdim=True)


def _signs(logits: Tensor, batch: Batch, projections: int, seed: int) -> list[Tensor]:
    """Random signs that depend on the seed and the rows alone, not on who computes them when."""
    generator = np.random.default_rng([seed, int(batch.rows[0]), len(batch.rows)])
    shape = tuple(logits.shape)
    return [
        torch.from_numpy(generator.integers(0, 2, shape, dtype=np.int8)).to(logits.dtype) * 2 - 1
        for _ in range(projections)
    ]


def _cells(examples: Examples, batch: Batch) -> tuple[Int[Tensor, "batch tokens"], list[Cell]]:
    """The targets of a batch and its cells: all tokens for the slices of rows, then each slice of tokens."""
    if not examples.tokenwise:
        members = examples.slice_matrix(batch.rows)
        labels = torch.from_numpy(examples.labels[batch.rows])[:, None]
        return labels, [Cell(torch.ones(labels.shape), slice(0, len(members)), members)]
    targets, valid = examples.targets(batch)
    rows = examples.slice_matrix(batch.rows)
    cells = [Cell(valid.float(), slice(0, len(rows)), rows)]
    membership = examples.token_membership(batch)
    everyone = torch.ones(1, len(batch.rows))
    for which in range(len(rows), len(membership)):
        cells.append(Cell(membership[which], slice(which, which + 1), everyone))
    return targets, cells
