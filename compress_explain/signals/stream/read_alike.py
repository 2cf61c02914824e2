"""Which rows both models read as the same tokens, so that what each makes of a token can be set side by side."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from compress_explain.data.examples import Examples


def rows_read_alike(original: Examples, compressed: Examples) -> Int[np.ndarray, " alike"]:
    """Rows, by number, of which both models read equally many tokens that are the same ones.

    Tokens may have another number in the compressed model, as they do when its vocabulary was cut: the same is what stands
    most often in the place of the same token, over all rows of equal length. Images are read alike where both are of one size.
    """
    if "input_ids" not in original.inputs or "input_ids" not in compressed.inputs:
        return _images_alike(original, compressed)
    one, other = original.inputs["input_ids"], compressed.inputs["input_ids"]
    equal = [row for row in range(len(one)) if len(one[row]) == len(other[row])]
    if not equal:
        return np.array([], dtype=np.int64)
    pairs = np.concatenate([np.stack([one[row], other[row]], 1) for row in equal])
    same = _commonest(pairs)
    return np.array([row for row in equal if all(map(same.__contains__, zip(one[row], other[row], strict=True)))], int)


def _commonest(pairs: Int[np.ndarray, "n 2"]) -> set[tuple[int, int]]:
    """Of each first member the pair that is met most often."""
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    partner: dict[int, int] = {}
    for place in np.argsort(counts, kind="stable"):  # what is met more often comes later, and stays
        partner[int(kinds[place, 0])] = int(kinds[place, 1])
    return set(partner.items())


def _images_alike(original: Examples, compressed: Examples) -> Int[np.ndarray, " alike"]:
    name = "pixel_values"
    if name not in original.inputs or name not in compressed.inputs:
        return np.array([], dtype=np.int64)
    pairs = zip(original.inputs[name], compressed.inputs[name], strict=True)
    return np.flatnonzero([one.shape == other.shape for one, other in pairs])
