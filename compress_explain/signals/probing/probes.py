"""Linear probes: what can be read off a model's states by a straight line, and how surely."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

_STEPS = 2000


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear map from standardised states to a score a class; of two classes one score, that of the second."""

    centre: Float[np.ndarray, " width"] = field(repr=False)
    scale: Float[np.ndarray, " width"] = field(repr=False)
    weight: Float[np.ndarray, "width scores"] = field(repr=False)
    bias: Float[np.ndarray, " scores"] = field(repr=False)
    converged: bool = True

    def scores(self, states: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n scores"]:
        """Log-odds, or unnormalised log-probabilities of several classes."""
        result: np.ndarray = ((states - self.centre) / self.scale) @ self.weight + self.bias
        return result


def fit_probe(
    states: Float[np.ndarray, "n width"], answers: Int[np.ndarray, " n"], strength: float, classes: int | None = None
) -> Probe:
    """Logistic regression with an L2 penalty, to convergence: convex, so that there is one answer and no seed.

    States are standardised by their own mean and spread first, so that a model whose states are larger is not penalised less;
    what is the same for all stays out. ``strength`` is scikit-learn's C: the weight of the data against that of the penalty.

    Raises:
        ValueError: fewer than two classes among the answers.
    """
    centre, scale = states.mean(0), states.std(0)
    scale = np.where(scale > 1e-6 * max(1e-30, float(np.abs(states).max())), scale, math.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=strength, max_iter=_STEPS).fit((states - centre) / scale, answers)
    weight, bias = fitted.coef_.T, fitted.intercept_
    count = max(2, classes or 0)
    if count > 2 and len(fitted.classes_) < count:  # a class that was not met: as unlikely as can be
        weight, bias = _spread_out(weight, bias, fitted.classes_, count)
    return Probe(centre=centre, scale=scale, weight=weight, bias=bias, converged=bool((fitted.n_iter_ < _STEPS).all()))


def _spread_out(weight: np.ndarray, bias: np.ndarray, met: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    if weight.shape[1] == 1:  # of two classes
        weight, bias = np.hstack([-weight / 2, weight / 2]), np.hstack([-bias / 2, bias / 2])
    wide, shift = np.zeros((len(weight), count)), np.full(count, -1e3)
    wide[:, met], shift[met] = weight, bias
    return wide, shift


def area(scores: Float[np.ndarray, "n scores"], answers: Int[np.ndarray, " n"]) -> float:
    """The area under the ROC curve; of several classes, the mean of one against the others over those that occur.

    >>> import numpy as np
    >>> area(np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([0, 0, 1, 1]))
    0.75
    """
    return float(resampled_area(scores, answers, np.ones((1, len(answers)), dtype=np.int64))[0])


def resampled_area(
    scores: Float[np.ndarray, "n scores"], answers: Int[np.ndarray, " n"], counts: Int[np.ndarray, "resamples n"]
) -> Float[np.ndarray, " resamples"]:
    """:func:`area` of samples in which each value stands so often; NaN where a sample has only one class."""
    if scores.shape[1] == 1:
        return _area_of(scores[:, 0], answers == 1, counts)
    each = [_area_of(scores[:, index], answers == index, counts) for index in np.unique(answers)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no class at all
        return np.nanmean(np.stack(each), 0)


def _area_of(scores: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pairs in the right order, ties half, as a share of all pairs (Mann and Whitney 1947)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    held = [
        np.add.reduceat((counts * flags)[:, order], starts, axis=1).astype(float) for flags in (positive, ~positive)
    ]
    below = np.cumsum(held[1], 1) - held[1]
    pairs = held[0].sum(1) * held[1].sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: np.ndarray = np.where(pairs > 0, (held[0] * (below + held[1] / 2)).sum(1) / pairs, math.nan)
    return result
