"""States of a few decisions, kept small: turned so that as many features as decisions hold all that CKA sees of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from compress_explain.signals.similarity.cka import cka_map


def outline(states: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n features"]:
    """``states`` about their mean in their principal directions, at most ``n`` of them: every product of two rows stays what it is.

    >>> import numpy as np
    >>> states = np.random.default_rng(0).normal(size=(5, 40))
    >>> turned, centred = outline(states), states - states.mean(0)
    >>> turned.shape, bool(np.allclose(turned @ turned.T, centred @ centred.T, atol=1e-4))
    ((5, 5), True)
    """
    centred = states.astype(np.float64) - states.mean(0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    turned: np.ndarray = (left * lengths).astype(np.float32)
    return turned


def outlines_alike(outlines: Sequence[np.ndarray]) -> Float[np.ndarray, "some some"]:
    """Debiased CKA of every outline with every other, of the same decisions."""
    stacked = np.stack(outlines, axis=1)
    return cka_map(stacked, stacked)
