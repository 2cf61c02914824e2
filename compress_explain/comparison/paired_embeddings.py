"""How alike both models' embeddings of texts are, as figures: the embeddings themselves are not kept."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from compress_explain.data.neighbours import NEAREST, Neighbours, nearest_of


@dataclass(frozen=True, kw_only=True)
class PairedEmbeddings:
    """Of each text: the cosine of its two embeddings, and the share of its nearest texts that are nearest in both.

    Of texts in pairs, the cosine of the two in each model, and the similarity that people gave; NaN of others.
    """

    cosine: Float[np.ndarray, " n"] = field(repr=False)
    overlap: Float[np.ndarray, " n"] = field(repr=False)
    original_similarity: Float[np.ndarray, " n"] = field(repr=False)
    compressed_similarity: Float[np.ndarray, " n"] = field(repr=False)
    human_similarity: Float[np.ndarray, " n"] = field(repr=False)

    @classmethod
    def of(cls, neighbours: Neighbours, compressed: Float[np.ndarray, "n width"]) -> PairedEmbeddings:
        """Of all texts of a split, their directions as the compressed model has them."""
        original = neighbours.original
        count = min(NEAREST, len(original) - 1)
        both = [nearest_of(each, count) for each in (original, compressed)]
        kept = [len(np.intersect1d(*each)) for each in zip(*both, strict=True)]
        nothing = np.full(len(original), np.nan)
        human = neighbours.similarity
        return cls(
            cosine=(original * compressed).sum(1).astype(np.float64),
            overlap=np.array(kept) / count,
            original_similarity=nothing if human is None else _of_pairs(original),
            compressed_similarity=nothing if human is None else _of_pairs(compressed),
            human_similarity=nothing if human is None else human.astype(np.float64),
        )

    @property
    def scored(self) -> bool:
        """Whether people said how alike the texts of pairs are."""
        return bool(np.isfinite(self.human_similarity).all())

    def only(self, flags: Bool[np.ndarray, " n"]) -> PairedEmbeddings:
        return PairedEmbeddings(**{name: values[flags] for name, values in self.columns().items()})

    def columns(self) -> dict[str, np.ndarray]:
        """As columns of a table."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def stands_in(cls, table: pa.Table) -> bool:
        """Whether a table has these columns."""
        return {each.name for each in fields(cls)} <= set(table.column_names)

    @classmethod
    def of_columns(cls, table: pa.Table) -> PairedEmbeddings:
        return cls(**{each.name: table[each.name].to_numpy() for each in fields(cls)})


def _of_pairs(directions: Float[np.ndarray, "n width"]) -> Float[np.ndarray, " n"]:
    """The cosine of the first and second text of each pair, at both of them."""
    return (directions[::2] * directions[1::2]).sum(1).astype(np.float64).repeat(2)
