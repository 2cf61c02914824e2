"""What a linearisation leaves out, learned from the pairs of a row and an edit that were computed exactly.

A trained model is mostly less sure of itself without one of its parts: the logits of a row move
towards one another, whatever the gradient says. That is an effect of second order, and small; but it
has the same sign on almost every row, while much of what a linearisation predicts cancels between
rows. On MiniLM/AG News it is the larger part of the error of a head's mean loss change.

The shrinking of the logits is fitted as a coefficient times the squared reach of the edit, one
coefficient an edit, each drawn towards the common one as if that rested on as many pairs as an
average edit has.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from compress_explain.pricing.impact import with_first

_FEW_ROWS = 10


def bent(
    logits: Float[Tensor, "rows choices"],
    linear: Float[Tensor, "rows edits others"],
    known: Float[Tensor, "rows edits others"],
    exact: Bool[Tensor, "rows edits"],
    reach: Float[Tensor, "rows edits"],
) -> Float[Tensor, "rows edits others"]:
    """``known`` with what is not ``exact`` corrected; the squared ``reach`` of an edit is of :meth:`Slopes.reach`.

    ``linear`` holds the changes of all pairs to first order, ``known`` the exact ones where there are
    any. Changes are those of each logit but the first, less that of the first.
    """
    apart = torch.nn.functional.normalize(logits - logits.mean(1, keepdim=True), dim=1)  # the way they grow apart
    left_out = with_first(known - linear)
    growth = torch.einsum("rec,rc->re", left_out, apart)  # the mean of left_out does not matter: apart has none
    expected = _coefficients(growth, reach.to(growth.dtype) * exact) * reach
    way = apart[:, 1:] - apart[:, :1]
    return torch.where(exact[..., None], known, known + expected[..., None] * way[:, None])


def _coefficients(growth: Float[Tensor, "rows edits"], reach: Float[Tensor, "rows edits"]) -> Float[Tensor, " edits"]:
    """Of a growth on a reach, edit by edit; pairs of no reach tell nothing.

    A regression through the origin, drawn towards that of all edits together. A common coefficient
    within two standard errors of 0, rows being independent of one another, is taken for chance, and the
    further from that it is the more is believed, of all of them; a few rows tell nothing.
    """
    products, squares = growth * reach, reach.square()
    if (reach != 0).any(1).sum() < _FEW_ROWS:
        return growth.new_zeros(growth.shape[1])
    common = products.sum() / squares.sum()
    without = (products.sum() - products.sum(1)) / (squares.sum() - squares.sum(1))  # one row
    chance = (without - common).square().sum() / common.square()  # the jackknife's variance
    believed = (1 - 4 * chance).clamp(min=0).nan_to_num()  # nan where nothing was left out
    average = squares.sum(0).mean()
    return believed * (products.sum(0) + average * common) / (squares.sum(0) + average)
