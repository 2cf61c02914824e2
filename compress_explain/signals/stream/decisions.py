"""The decisions of a batch: their logits, and which of a split's decisions they are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from compress_explain.data.examples import ALL, Batch, Examples


def decision_logits(
    examples: Examples, batch: Batch, logits: Float[Tensor, "batch *tokens classes"]
) -> Float[Tensor, "n classes"]:
    """Of what a model gave for a batch the logits of its decisions, row by row: nothing of padding, nor of tokens that nobody asks about."""
    if not examples.tokenwise:
        return logits.float()
    return examples.decided_on(batch, logits)[examples.targets(batch)[1]].float()


def decision_numbers(examples: Examples, batch: Batch) -> Int[np.ndarray, " n"]:
    """Which decisions of the split those are, counted over all of its rows in order."""
    ends = np.cumsum(examples.decisions)
    return np.concatenate([np.arange(ends[row] - examples.decisions[row], ends[row]) for row in batch.rows])


def decision_rows(examples: Examples) -> Int[np.ndarray, " n"]:
    """The row that each decision of the split stands in."""
    return np.repeat(np.arange(len(examples)), examples.decisions)


def decision_slices(examples: Examples) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which decisions are in each slice, of rows or of tokens; :data:`ALL` first."""
    of_rows = {name: np.repeat(flags, examples.decisions) for name, flags in examples.slices.items()}
    of_tokens = {name: np.concatenate(rows).astype(bool) for name, rows in examples.token_slices.items()}
    return {ALL: of_rows[ALL], **of_rows, **of_tokens}
