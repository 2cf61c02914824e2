"""From moved logits to what an edit does: loss and KL in nats, flips as 0 or 1, Brier; per example.

``soft_kl`` is the KL of predictions softened by a temperature, times its square, to second order: half
the square of the logit move in the metric of the softened softmax (nats). A model is sure of itself
on rows that it was trained on, and its KL hears only of the few in doubt; softened, all of them count.
Softening by 4 is usual where models learn from models (Hinton, Vinyals and Dean 2015).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from compress_explain.pricing.decision import Decision

TEMPERATURE = 4.0
IMPACTS = ("loss_change", "kl", "soft_kl", "flips_to_wrong", "flips_to_right", "brier_change", "logit_move")

Impact = dict[str, Tensor]


def impact_of(decision: Decision, move: Float[Tensor, "batch components choices"]) -> Impact:
    """What moving the logits of each choice does; every value ``(batch, components)``."""
    if decision.logits.shape[1] == 2:
        return binary_impact(decision, move[..., 1] - move[..., 0])
    logits, labels = decision.logits, decision.labels
    after = logits[:, None] + move
    probability, moved = logits.softmax(-1), after.softmax(-1)
    index = labels[:, None]
    centred = move - (probability[:, None] * move).sum(-1, keepdim=True)
    kl = (probability[:, None] * _beyond_linear(centred)).sum(-1).log1p()  # log of the mean of exp(centred)
    candidates = slice(None) if decision.rest is None else slice(0, -1)  # the rest is many classes, none of them first
    right = logits[:, candidates].argmax(-1) == labels
    stays = after[..., candidates].argmax(-1) == index
    return {
        "loss_change": kl - centred.gather(2, index[:, None].expand(-1, after.shape[1], 1))[..., 0],
        "kl": kl,
        "soft_kl": _soft(logits[:, None], move),
        "flips_to_wrong": (right[:, None] & ~stays).to(logits.dtype),
        "flips_to_right": (~right[:, None] & stays).to(logits.dtype),
        "brier_change": _brier(decision, moved) - _brier(decision, probability)[:, None],
        "logit_move": (move - move.mean(-1, keepdim=True)).norm(dim=-1),
    }


def softened(decision: Decision, change: Float[Tensor, "batch components others"]) -> Tensor:
    """Moves ``(batch, components, choices)`` of which half the squared length is their ``soft_kl``.

    ``change`` is that of each logit but the first, less that of the first. Two classes take one choice.
    """
    probability = (decision.logits / TEMPERATURE).softmax(-1)[:, None]
    if change.shape[-1] == 1:
        return change * probability.prod(-1, keepdim=True).sqrt()
    move = with_first(change)
    return (move - (probability * move).sum(-1, keepdim=True)) * probability.sqrt()


def impact_of_change(decision: Decision, change: Float[Tensor, "batch components others"]) -> Impact:
    """The same from the change of each logit but the first, less that of the first."""
    if change.shape[-1] == 1:
        return binary_impact(decision, change[..., 0])
    return impact_of(decision, with_first(change))


def with_first(change: Float[Tensor, "*batch others"]) -> Float[Tensor, "*batch choices"]:
    """The change of every logit, that of the first being 0."""
    return torch.nn.functional.pad(change, (1, 0))


def binary_impact(decision: Decision, change: Float[Tensor, "batch components"]) -> Impact:
    """The same for two classes, from the change of the second logit less the first."""
    logits, labels = decision.logits, decision.labels
    sign = (2 * labels - 1).to(logits.dtype)
    margin = ((logits[:, 1] - logits[:, 0]) * sign)[:, None]
    change = change * sign[:, None]
    moved = margin + change
    soft = torch.sigmoid(-margin / TEMPERATURE)
    wrong, wrong_after = torch.sigmoid(-margin), torch.sigmoid(-moved)
    kl = _binary_kl(margin, change, wrong)
    return {
        "loss_change": kl - wrong * change,
        "kl": kl,
        "soft_kl": change.square() * (soft * (1 - soft) / 2),
        "flips_to_wrong": ((margin >= 0) & (moved < 0)).to(logits.dtype),
        "flips_to_right": ((margin < 0) & (moved >= 0)).to(logits.dtype),
        "brier_change": 2 * (wrong_after.square() - wrong.square()),
        "logit_move": change.abs() / 2**0.5,
    }


def _binary_kl(margin: Tensor, change: Tensor, wrong: Tensor) -> Tensor:
    """KL of moving a margin, from p log p - p log p' + (1-p) log(1-p) - (1-p) log(1-p').

    With log(1-p) = log p - margin that is softplus(-margin') - softplus(-margin) + (1-p) change,
    in which small changes cancel; for them its series stands in (relative error below 1e-3).
    """
    softplus = torch.nn.functional.softplus
    exact = softplus(-(margin + change)) - softplus(-margin) + wrong * change
    series = wrong * (1 - wrong) * change.square() * (0.5 + (2 * wrong - 1) * change / 6)
    return torch.where(change.abs() < 0.03, series, exact)


def _soft(logits: Float[Tensor, "*#batch choices"], move: Float[Tensor, "*#batch choices"]) -> Tensor:
    probability = (logits / TEMPERATURE).softmax(-1)
    return ((probability * move.square()).sum(-1) - (probability * move).sum(-1).square()).clamp(min=0) / 2


def _beyond_linear(x: Tensor) -> Tensor:
    """exp(x) - 1 - x; for small x, where that cancels, its series (relative error below 1e-11)."""
    series = x.square() / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
    return torch.where(x.abs() < 0.03, series, torch.expm1(x) - x)


class TokenImpact:
    """The observed impact of edits on every predicted token of a batch; ``before`` is worked out once."""

    def __init__(self, before: Float[Tensor, "batch tokens vocabulary"], targets: Int[Tensor, "batch tokens"]) -> None:
        self._before, self._targets, self._index = before, targets, targets[..., None]
        self._log = before.log_softmax(-1)
        self._probability = self._log.exp()
        self._own = self._of_target(self._log)
        self._right = before.argmax(-1) == targets
        self._brier = _token_brier(self._probability, self._own)

    def of(self, after: Float[Tensor, "batch tokens vocabulary"]) -> Impact:
        """The impact of what made the logits ``after``; every value ``(batch, tokens)``."""
        now = after.log_softmax(-1)
        own, stays = self._of_target(now), after.argmax(-1) == self._targets
        move = after - self._before
        return {
            "loss_change": self._own - own,
            "kl": (self._probability * (self._log - now)).sum(-1),
            "soft_kl": _soft(self._before, move),
            "flips_to_wrong": (self._right & ~stays).to(after.dtype),
            "flips_to_right": (~self._right & stays).to(after.dtype),
            "brier_change": _token_brier(now.exp(), own) - self._brier,
            "logit_move": (move - move.mean(-1, keepdim=True)).norm(dim=-1),
        }

    def _of_target(self, log: Float[Tensor, "batch tokens vocabulary"]) -> Float[Tensor, "batch tokens"]:
        return log.gather(-1, self._index)[..., 0]


def _token_brier(probability: Tensor, own: Tensor) -> Float[Tensor, "batch tokens"]:
    """Less a constant: the sum of squares less twice the probability of the target, whose log is ``own``."""
    return probability.square().sum(-1) - 2 * own.exp()


def _brier(decision: Decision, probability: Tensor) -> Tensor:
    """Sum of squared distances to the label's unit vector."""
    index = decision.labels.view(-1, *[1] * (probability.dim() - 1)).expand(*probability.shape[:-1], 1)
    squares = probability.square()
    if decision.rest is not None:  # within the rest the shares are as they were
        rest = decision.rest.view(-1, *[1] * (probability.dim() - 2))
        squares = torch.cat([squares[..., :-1], (squares[..., -1] * rest)[..., None]], -1)
    return squares.sum(-1) - 2 * probability.gather(-1, index)[..., 0] + 1
