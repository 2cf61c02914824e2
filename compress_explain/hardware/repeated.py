"""A score of something that was measured a few times of both models, in rounds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from compress_explain.comparison.scores import Direction, Score
from compress_explain.data.examples import ALL
from compress_explain.stats import mean_interval_of_few


def repeated_score(
    metric: str, rounds: pd.DataFrame, *, unit: str, confidence: float, doubt: str = "", direction: Direction = "lower"
) -> Score:
    """Of the columns ``original`` and ``compressed``, one line a round; the difference is bounded round by round."""
    original, compressed = rounds["original"].to_numpy(float), rounds["compressed"].to_numpy(float)
    low, high = mean_interval_of_few(compressed - original, confidence)
    own_low, own_high = mean_interval_of_few(compressed, confidence)
    return Score(
        metric=metric, slice=ALL, original=float(original.mean()), compressed=float(compressed.mean()),
        difference=float(np.mean(compressed - original)), low=low, high=high, compressed_low=own_low,
        compressed_high=own_high, n=len(rounds), unit=unit, direction=direction, confidence=confidence, doubt=doubt,
    )  # fmt: skip


def counted_score(metric: str, original: float, compressed: float, *, unit: str) -> Score:
    """What is counted and not sampled: its interval has no width."""
    change = compressed - original
    return Score(
        metric=metric, slice=ALL, original=original, compressed=compressed, difference=change, low=change, high=change,
        compressed_low=compressed, compressed_high=compressed, n=1, unit=unit, direction="lower", confidence=1 - 1e-9,
    )  # fmt: skip
