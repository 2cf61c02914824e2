"""What taking channels out of the residual stream would do: of each to first order, of many together along the way.

How far a channel is there is a number between 0 and 1 (:mod:`compress_explain.editing.narrowed_stream`). One
backward pass gives the slope of the loss along all of them. Of a whole plan the slope is taken
forwards, which moves all logits of a batch in one pass, and at three points of the way (Gauss-Legendre):
norms bend it so much that the one half-way is not enough (measured: docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from compress_explain.data.examples import Batch, Examples
from compress_explain.editing.masks import Masks
from compress_explain.model.heads import logits_in
from compress_explain.model.stream import CHANNELS
from compress_explain.pricing.exact import masked
from compress_explain.pricing.slopes import frozen, wide

_GAUSS = ((0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18))  # points of the way, weights


def of_channels(components: Sequence[str]) -> list[str]:
    """The channels among ``components``."""
    return [each for each in components if each.startswith(f"{CHANNELS}.")]


def on_the_way(masks: Masks, channels: Sequence[str], way: Tensor) -> Tensor:
    """How far every channel is there when some are ``way`` towards their other state."""
    switched = torch.zeros(len(masks.channels_here))
    switched[[masks.anatomy.find(each)[1] for each in channels]] = 1.0
    here = masks.channels_here
    return here + switched * way * (1 - 2 * here)


def channels_move(
    masks: Masks, examples: Examples, batch: Batch, channels: Sequence[str], strength: float | None = None
) -> Tensor:
    """How switching channels moves what is decided on in a batch: the slope along the way, at three points of it.

    To first order where they are ``strength`` of the way, if that is given.
    """
    points = _GAUSS if strength is None else ((strength, 1.0),)
    moves = [weight * _slope(masks, examples, batch, channels, at) for at, weight in points]
    return torch.stack(moves).sum(0)


def _slope(masks: Masks, examples: Examples, batch: Batch, channels: Sequence[str], at: float) -> Tensor:
    """How fast logits move when some channels are ``at`` this share of the way to their other state."""
    with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), masked(masks):
        way = forward_ad.make_dual(torch.tensor(at), torch.tensor(1.0))
        with masks.channels_at(on_the_way(masks, channels, way)):
            logits = examples.decided_on(batch, logits_in(masks.model(**batch.inputs)))
        move = forward_ad.unpack_dual(logits).tangent
        assert move is not None, "every channel reaches the logits"
        return wide(move)


def loss_without_each(
    masks: Masks, examples: Examples, batch_size: int, advance: Callable[[int], None] = lambda rows: None
) -> Float[Tensor, " channels"]:
    """To first order, how the mean loss, in nats, changes when each channel that is there is removed."""
    here = masks.channels_here.clone().requires_grad_()
    slope, decisions = torch.zeros(len(here), dtype=torch.float64), 0
    with frozen(masks.model), masked(masks), torch.enable_grad(), masks.channels_at(here):
        for batch in examples.batches(batch_size):
            loss, count = summed_loss(examples, batch, logits_in(masks.model(**batch.inputs)))
            (found,) = torch.autograd.grad(loss, here)
            slope, decisions = slope + found.double(), decisions + count
            advance(len(batch.rows))
    return -(slope / max(1, decisions)).float()


def summed_loss(examples: Examples, batch: Batch, logits: Tensor) -> tuple[Tensor, int]:
    """The loss of a batch in nats, summed over its decisions, and how many they are."""
    if not examples.tokenwise:
        labels = torch.from_numpy(examples.labels[batch.rows])
        return torch.nn.functional.cross_entropy(wide(logits), labels, reduction="sum"), len(labels)
    targets, valid = examples.targets(batch)
    decided = wide(examples.decided_on(batch, logits))[valid]
    return torch.nn.functional.cross_entropy(decided, targets[valid], reduction="sum"), int(valid.sum())
