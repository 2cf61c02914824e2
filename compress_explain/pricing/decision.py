"""What a classifier decides from: its logits, or, of many, the likeliest ones and the rest as one.

With at most :data:`MOST` classes every logit is followed on its own. Beyond that, each example's
label and its likeliest other classes are, and the remaining classes count as one choice whose
logit is their log-sum-exp. The probabilities of all choices are exact, so loss and the label's
share of Brier are too; KL is that of the coarser distribution and so at most the true one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from compress_explain.comparison.decided import gathered

MOST = 16


@dataclass(frozen=True)
class Decision:
    """The choices of a batch. ``labels`` indexes them.

    With many classes the label is choice 0 and the last choice is the rest; ``rest`` is then the
    sum of squares of the probabilities within it, which a small edit leaves as it is.
    """

    logits: Float[Tensor, "batch choices"]
    labels: Int[Tensor, " batch"]
    rest: Float[Tensor, " batch"] | None = None
    classes: Int[Tensor, "batch chosen"] | None = None

    def of(self, logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch choices"]:
        """The same choices' logits in another output of the model for the same rows (last but one axis)."""
        return logits if self.classes is None else gathered(logits, self.classes)


def decide(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Decision:
    """The choices behind ``logits``; differentiable."""
    if logits.shape[1] <= MOST:
        return Decision(logits, labels)
    ranked = logits.detach().scatter(1, labels[:, None], torch.inf)  # the label first
    classes = ranked.topk(MOST - 1, dim=1).indices
    elsewhere = logits.detach().scatter(1, classes, -torch.inf).softmax(-1)
    return Decision(gathered(logits, classes), torch.zeros_like(labels), elsewhere.square().sum(1), classes)
