"""What can be asked of a classifier about the pieces of its inputs: tokens of a text, patches of an image."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch
from compress_explain.model.heads import logits_in

AT_ONCE = 64  # inputs along paths from baselines that are run together, at least


@runtime_checkable
class Pieces(Protocol):
    """How much each piece speaks for a class, and what the model gives without some."""

    def free(self, batch: Batch) -> Bool[Tensor, "batch pieces"]:
        """Which pieces are attributed to and taken out: no padding, no special tokens."""
        ...

    def logits(
        self, batch: Batch, without: Bool[Tensor, "batch pieces"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """What the model gives, with some pieces replaced by those of the baseline."""
        ...

    def integrated_gradients(
        self, batch: Batch, classes: Int[Tensor, " batch"], steps: int
    ) -> Float[Tensor, "batch pieces"]:
        """The integral of the class's logit along the straight line from the baseline to the input (Sundararajan 2017, eq. 1)."""
        ...

    def input_x_gradient(self, batch: Batch, classes: Int[Tensor, " batch"]) -> Float[Tensor, "batch pieces"]:
        """Input times gradient of the class's logit (Shrikumar 2016)."""
        ...


def logits_ordered(
    model: PreTrainedModel, inputs: dict[str, Tensor], order: tuple[int, ...] | None
) -> Float[Tensor, "batch classes"]:
    """Of a classifier, a column for each of the original's classes where ``order`` says which of its own that is."""
    logits = logits_in(model(**inputs)).float()
    return logits if order is None else logits[:, list(order)]
