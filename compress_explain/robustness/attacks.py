"""Attacks along the gradient: the shift of an input, within a radius, that is to raise the model's loss most.

White-box: the model's own gradient is followed. An attack that fails proves nothing: it certifies no radius, another may succeed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from compress_explain.data.examples import Batch
from compress_explain.robustness.spaces import Space

_STRIDE = 2.5  # radii that all steps together could go (Madry 2018, section 5)


def fgsm(space: Space, batch: Batch, labels: Int[Tensor, " batch"], radii: Sequence[float]) -> list[Tensor]:
    """One step along the gradient, as long as each radius allows (the fast gradient method, Goodfellow 2015, section 4).

    In L-infinity that is along its sign; in L2 along the gradient itself. Radii count in the space's unit.
    """
    shift = space.still(batch).requires_grad_()
    _, gradient = _losses(space, batch, shift, labels)
    direction = space.uphill(batch, gradient)
    return [space.within(batch, radius * space.unit * direction, radius * space.unit) for radius in radii]


def pgd(space: Space, batch: Batch, labels: Int[Tensor, " batch"], radius: float, steps: int) -> Tensor:
    """Steps along the gradient, each projected back into the ball (projected gradient descent, Madry 2018, section 2.1).

    It starts at the input itself and not somewhere at random, so that it comes out the same again. Kept is, row by row, the
    shift with the largest loss on the way, that of the first step along its whole radius included.
    """
    size = radius * space.unit
    best = space.still(batch)
    shift = best.clone().requires_grad_()
    highest, gradient = _losses(space, batch, shift, labels)
    whole = space.within(batch, size * space.uphill(batch, gradient), size)
    highest, best = _better(space, batch, labels, whole, highest, best)
    for step in range(steps):
        moved = shift.detach() + _STRIDE * size / steps * space.uphill(batch, gradient)
        shift = space.within(batch, moved, size).requires_grad_()
        if step == steps - 1:
            return _better(space, batch, labels, shift.detach(), highest, best)[1]
        losses, gradient = _losses(space, batch, shift, labels)
        highest, best = _larger(losses, shift.detach(), highest, best)
    return best


def _losses(
    space: Space, batch: Batch, shift: Tensor, labels: Int[Tensor, " batch"]
) -> tuple[Float[Tensor, " batch"], Tensor]:
    """The loss of each row in nats, and the gradient of their sum."""
    losses = cross_entropy(space.logits(batch, shift), labels, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), shift)
    return losses.detach(), gradient


def _better(
    space: Space, batch: Batch, labels: Int[Tensor, " batch"], shift: Tensor, highest: Tensor, best: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        losses = cross_entropy(space.logits(batch, shift), labels, reduction="none")
    return _larger(losses, shift, highest, best)


def _larger(losses: Tensor, shift: Tensor, highest: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row the larger loss with its shift."""
    larger = (losses > highest).view(-1, *[1] * (shift.ndim - 1))
    return torch.maximum(losses, highest), torch.where(larger, shift, best)
