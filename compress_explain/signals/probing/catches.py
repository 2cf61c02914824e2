"""Wrong decisions that a score flags and confidence does not, beside how many chance would."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def exclusive_catches(
    score: Float[np.ndarray, " n"], confidence: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], rate: float
) -> tuple[int, int, int, float]:
    """How many wrong decisions are flagged by ``score`` and by low ``confidence``, at one rate each.

    Each flags exactly ``floor(rate * n)`` decisions: those with the highest score, those with the lowest confidence. Ties are
    broken by lot, with lots of its own for each and the same every time. Returned are counts of wrong decisions: flagged by ``both``, by the
    score alone, by confidence alone, and how many the score alone is expected to flag if it were drawn by lot: each wrong
    decision that confidence misses with probability ``floor(rate * n) / n``.

    >>> import numpy as np
    >>> wrong = np.array([True, True, False, False, True, False, False, False, False, False])
    >>> exclusive_catches(np.arange(10)[::-1].astype(float), np.arange(10.0), wrong, 0.2)
    (2, 0, 0, 0.2)
    >>> exclusive_catches(np.arange(10)[::-1].astype(float), np.arange(10.0)[::-1], wrong, 0.2)
    (0, 2, 0, 0.6)

    Raises:
        ValueError: arrays of different lengths, or a rate outside (0, 1].
    """
    score, confidence, wrong = np.asarray(score), np.asarray(confidence), np.asarray(wrong, dtype=bool)
    if not len(score) == len(confidence) == len(wrong) or not len(score):
        raise ValueError(f"arrays of lengths {len(score)}, {len(confidence)} and {len(wrong)} do not fit")
    if not 0 < rate <= 1:
        raise ValueError(f"rate must lie in (0, 1], got {rate}")
    many = int(rate * len(score) + 1e-9)
    told, unsure = _highest(score, many, 0), _highest(-confidence, many, 1)
    missed = int((wrong & ~unsure).sum())
    return (
        int((wrong & told & unsure).sum()),
        int((wrong & told & ~unsure).sum()),
        int((wrong & ~told & unsure).sum()),
        missed * many / len(score),
    )


def _highest(values: Float[np.ndarray, " n"], many: int, lot: int) -> Bool[np.ndarray, " n"]:
    lots = np.random.default_rng(lot).random(len(values))
    flags = np.zeros(len(values), dtype=bool)
    flags[np.lexsort((lots, -values))[:many]] = True
    return flags
