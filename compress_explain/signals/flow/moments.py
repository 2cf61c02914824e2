"""The spread of a cloud of vectors, taken in piece by piece, and in how many directions it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_LEAST = 1e-12  # share of the variance below which a direction has none

Slope = Float[np.ndarray, " width"]


@dataclass(kw_only=True)
class Moments:
    """Sums over vectors, and over their products with themselves; never the vectors."""

    count: int
    total: Float[np.ndarray, " width"]
    products: Float[np.ndarray, "width width"]

    @classmethod
    def nothing(cls, width: int) -> Moments:
        return cls(count=0, total=np.zeros(width), products=np.zeros((width, width)))

    def add(self, vectors: Float[np.ndarray, "n width"]) -> None:
        exact = vectors.astype(np.float64)
        self.count += len(exact)
        self.total += exact.sum(0)
        self.products += exact.T @ exact

    @property
    def mean(self) -> Float[np.ndarray, " width"]:
        return self.total / self.count

    @property
    def covariance(self) -> Float[np.ndarray, "width width"]:
        """Of all vectors as they are, not of what they are drawn from: divided by n."""
        return self.products / self.count - np.outer(self.mean, self.mean)


def effective_rank(variances: Float[np.ndarray, " width"]) -> tuple[float, Slope]:
    """Directions that the variance is spread over, and the slope of that by each variance.

    exp of the entropy of the variances as shares of their sum (Roy and Vetterli 2007, of the eigenvalues of a covariance where
    they take singular values).

    >>> round(effective_rank(np.array([2.0, 2.0, 2.0, 0.0]))[0], 6)
    3.0
    """
    whole = variances.sum()
    logs = np.log(np.maximum(variances / whole, _LEAST))
    spread = -float(variances @ logs / whole)
    rank = float(np.exp(spread))
    return rank, rank * (-logs - spread) / whole


def participation_ratio(variances: Float[np.ndarray, " width"]) -> tuple[float, Slope]:
    """(sum of variances) squared over the sum of their squares, and its slope by each variance.

    How many directions of equal variance would be as uneven; large variances count for more than in :func:`effective_rank`.

    >>> participation_ratio(np.array([2.0, 2.0, 0.0]))[0]
    2.0
    """
    whole, squares = variances.sum(), np.square(variances).sum()
    return float(whole**2 / squares), 2 * whole / squares * (1 - variances * whole / squares)


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A number of directions, and the matrix that tells what each vector does to it: its slope by the covariance."""

    value: float
    slope: Float[np.ndarray, "width width"]

    @classmethod
    def of(cls, moments: Moments, figure: Callable[[np.ndarray], tuple[float, Slope]]) -> Dimension:
        """NaN where all vectors are one."""
        variances, directions = np.linalg.eigh(moments.covariance)
        variances = np.maximum(variances, 0)
        if not variances.any():
            return cls(value=np.nan, slope=np.zeros_like(directions))
        value, slope = figure(variances)
        return cls(value=value, slope=directions * slope @ directions.T)

    def pull(self, moments: Moments, vectors: Float[np.ndarray, "n width"]) -> Float[np.ndarray, " n"]:
        """By how much each vector of ``moments`` moves the value (its influence function over n); all of them sum up to 0."""
        apart = vectors.astype(np.float64) - moments.mean
        usual = float((self.slope * moments.covariance).sum())
        pulls: np.ndarray = (np.einsum("nw,nw->n", apart @ self.slope, apart) - usual) / moments.count
        return pulls
