"""Temperature: the one number by which logits are divided so that a model is as sure as it is right (Guo et al. 2017)."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq

Logits = Float[np.ndarray, "n classes"]
Labels = Int[np.ndarray, " n"]
LIMIT = 50.0  # beyond which, or below 1 over which, no temperature is looked for


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature of the least mean NLL; above 1 for a model that is surer than it is right.

    NLL is convex in 1/T, so that its slope is 0 once at most. Where it is not between 1/50 and 50, as when all rows
    are right, that bound is returned.
    """

    def slope(inverse: float) -> float:
        return float(slopes(logits, labels, 1 / inverse)[0].sum())

    if slope(1 / LIMIT) >= 0:
        return LIMIT
    if slope(LIMIT) <= 0:
        return 1 / LIMIT
    return 1 / float(brentq(slope, 1 / LIMIT, LIMIT, xtol=1e-10))


def is_found(temperature: float) -> bool:
    """Whether it lies between the limits of the search."""
    return 1 / LIMIT < temperature < LIMIT


def losses(
    logits: Logits, labels: Labels, temperature: float | Float[np.ndarray, "n 1"] = 1.0
) -> Float[np.ndarray, " n"]:
    """The NLL of each row in nats, at a temperature, or each at its own."""
    return -_log_softmax(logits / temperature)[np.arange(len(labels)), labels]


def slopes(
    logits: Logits, labels: Labels, temperature: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The first and second derivative by 1/T of each row's NLL: expected logit minus that of the label; variance."""
    probabilities = np.exp(_log_softmax(logits / temperature))
    mean = (probabilities * logits).sum(1)
    variance = (probabilities * np.square(logits - mean[:, None])).sum(1)
    return mean - logits[np.arange(len(labels)), labels], variance


def recalibrated_losses(logits: Logits, labels: Labels, half: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Each row's NLL at the temperature that was fitted on the other half: what recalibrating gives on new rows."""
    if half.all() or not half.any():
        return np.full(len(labels), math.nan)
    of_half, of_others = (fit_temperature(logits[rows], labels[rows]) for rows in (half, ~half))
    return losses(logits, labels, np.where(half, of_others, of_half)[:, None])


def halves(owners: Int[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """Which rows stand in one of two halves, drawn by what is independent."""
    kinds, numbers = np.unique(owners, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(kinds)) < len(kinds) // 2
    return np.asarray(chosen[numbers])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
