"""What an embedding decides: which texts a text is near to.

Nothing is right or wrong about an embedding by itself; what is done with it is to look for what is near.
So each text of a split decides among the others, some of them when there are many, as the original embeds
those: the logit of each is its cosine times :data:`SHARPNESS`, the scale at which such models are usually
trained (their temperature of 0.05). Only directions count. The KL of two such distributions is what
retrieval sees of a change, and its Gauss-Newton form is the square of the embedding's change in the
metric of the neighbours' softmax. What is right is the nearest text of the original.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from compress_explain.data.spans import ELSEWHERE
from compress_explain.model.pooling import Pooling

SHARPNESS = 20.0
ANCHORS = 256  # texts among which is decided
NEAREST = 10  # whose overlap is told


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The directions of a split's texts as the original embeds them, and of those among which each decides.

    ``apart`` says which those are for each text: neither itself nor the same text again. ``similarity`` is
    what people said of a text and the one that it is paired with, the same for both; None where there are no pairs.
    """

    pooling: Pooling
    original: Float[np.ndarray, "rows width"] = field(repr=False)
    anchors: Float[np.ndarray, "anchors width"] = field(repr=False)
    apart: Bool[np.ndarray, "rows anchors"] = field(repr=False)
    similarity: Float[np.ndarray, " rows"] | None = field(default=None, repr=False)

    @classmethod
    def among(
        cls,
        texts: list[str],
        original: Float[np.ndarray, "rows width"],
        pooling: Pooling,
        similarity: Float[np.ndarray, " rows"] | None,
    ) -> Neighbours:
        """Those of texts, drawn evenly over the split when there are many."""
        drawn = np.unique(np.linspace(0, len(texts) - 1, min(ANCHORS, len(texts))).astype(np.int64))
        names = np.array(texts, dtype=object)
        return cls(
            pooling=pooling, original=original, anchors=original[drawn],
            apart=(names[:, None] != names[drawn][None]).astype(bool), similarity=similarity,
        )  # fmt: skip

    def of(self, rows: Int[np.ndarray, " chosen"]) -> Neighbours:
        """Of some rows, who decide among the same texts."""
        similarity = None if self.similarity is None else self.similarity[rows]
        return replace(self, original=self.original[rows], apart=self.apart[rows], similarity=similarity)

    @property
    def nearest(self) -> Int[np.ndarray, " rows"]:
        """Of each text, which of those that it decides among is nearest to it."""
        return np.where(self.apart, self.original @ self.anchors.T, -np.inf).argmax(1)

    def directions(
        self, states: Float[Tensor, "batch tokens width"], mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """Embeddings of length 1; differentiable."""
        return torch.nn.functional.normalize(self.pooling.of(states, mask), dim=-1)

    def decided(
        self,
        states: Float[Tensor, "batch tokens width"],
        mask: Int[Tensor, "batch tokens"],
        rows: Int[np.ndarray, " batch"],
    ) -> Float[Tensor, "batch 1 anchors"]:
        """The logits of some rows; differentiable."""
        directions = self.directions(states, mask)
        near = directions @ torch.from_numpy(self.anchors).to(directions).T * SHARPNESS
        apart = torch.from_numpy(self.apart[rows]).to(near.device)
        return near.masked_fill(~apart, ELSEWHERE)[:, None]


def nearest_of(
    directions: Float[np.ndarray, "rows width"], count: int, at_once: int = 512
) -> Int[np.ndarray, "rows count"]:
    """Of each row the nearest others, in no order."""
    found = np.empty((len(directions), count), dtype=np.int64)
    for start in range(0, len(directions), at_once):
        near = directions[start : start + at_once] @ directions.T
        near[np.arange(len(near)), start + np.arange(len(near))] = -np.inf
        found[start : start + at_once] = np.argpartition(-near, count - 1, axis=1)[:, :count]
    return found
