"""Centred kernel alignment: how alike two models, or two layers, arrange the same examples.

Linear kernels, and the unbiased estimator of HSIC of Song et al. (2012, "Feature selection via dependence maximization", equation
4), as Nguyen et al. (2021, arXiv:2010.15327) use it: with it, unlike with the plain one, random features of many dimensions are
not alike. Computed from features, never from a matrix with a row and a column an example.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.stats import t

_LEAST = 4  # examples, below which the estimator is not defined
_GROUPS = 20  # left out in turn, for the interval


def debiased_cka(x: Float[np.ndarray, "n features"], y: Float[np.ndarray, "n others"]) -> float:
    """Debiased linear CKA of two sets of features of the same examples: 1 when one is a rotation of the other, about 0 when unrelated.

    It may fall a little below 0, as an unbiased estimate of 0 does. NaN where one of both is the same for all examples.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 8))
    >>> round(debiased_cka(x, 3 * x[:, ::-1]), 6)
    1.0
    >>> abs(debiased_cka(x, np.random.default_rng(1).normal(size=(50, 400)))) < 0.1
    True

    Raises:
        ValueError: fewer than four examples, or different numbers of them.
    """
    a, b = _checked(x), _checked(y)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} examples do not fit")
    return _ratio(_hsic(a, b), _hsic(a, a), _hsic(b, b))


def cka_interval(
    x: Float[np.ndarray, "n features"], y: Float[np.ndarray, "n others"], confidence: float, seed: int = 0
) -> tuple[float, float]:
    """An interval of :func:`debiased_cka` by the jackknife over groups of examples, drawn with ``seed``.

    Twenty groups (fewer where there are not five examples each) are left out in turn (Efron and Tibshirani 1993, chapter 11), with
    Student's quantile. Resampling would put copies beside one another, which are alike for no reason.
    """
    a, b = _checked(x), _checked(y)
    count = min(_GROUPS, len(a) // 5)
    if count < 2:
        return math.nan, math.nan
    order = np.random.default_rng(seed).permutation(len(a))
    whole = [(p, q, p.T @ q) for p, q in ((a, b), (a, a), (b, b))]
    values = []
    for group in np.array_split(order, count):
        left = np.setdiff1d(order, group)
        values.append(_ratio(*(_hsic(p[left], q[left], cross - p[group].T @ q[group]) for p, q, cross in whole)))
    told = np.array(values)
    value = debiased_cka(x, y)
    half = float(
        t.ppf((1 + confidence) / 2, count - 1) * math.sqrt((count - 1) / count * np.square(told - told.mean()).sum())
    )
    return value - half, value + half


def cka_map(
    left: Float[np.ndarray, "n layers features"], right: Float[np.ndarray, "n others width"]
) -> Float[np.ndarray, "layers others"]:
    """:func:`debiased_cka` of every layer of one model with every layer of another, on the same examples."""
    mine = [_checked(left[:, index]) for index in range(left.shape[1])]
    theirs = mine if right is left else [_checked(right[:, index]) for index in range(right.shape[1])]
    own = [[_hsic(each, each) for each in side] for side in (mine, theirs)]
    return np.array(
        [
            [_ratio(_hsic(a, b), p, q) for b, q in zip(theirs, own[1], strict=True)]
            for a, p in zip(mine, own[0], strict=True)
        ]
    )


def _hsic(a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "n q"], cross: np.ndarray | None = None) -> float:
    """The unbiased estimate; kernels are products of rows with their diagonal left out. ``cross`` is a.T @ b where it is known."""
    n = len(a)
    cross = a.T @ b if cross is None else cross
    own = [np.einsum("ij,ij->i", each, each) for each in (a, b)]  # the diagonals
    rows = [each @ each.sum(0) - diagonal for each, diagonal in zip((a, b), own, strict=True)]  # sums of the rest
    trace = float(np.square(cross).sum() - own[0] @ own[1])
    sums = float(rows[0].sum() * rows[1].sum()) / ((n - 1) * (n - 2))
    return (trace + sums - 2 * float(rows[0] @ rows[1]) / (n - 2)) / (n * (n - 3))


def _ratio(both: float, one: float, other: float) -> float:
    """The estimate of a constant set of features is 0 or less."""
    return both / math.sqrt(one * other) if one > 0 and other > 0 else math.nan


def _checked(values: np.ndarray) -> Float[np.ndarray, "n features"]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or len(found) < _LEAST:
        raise ValueError(f"expected at least {_LEAST} examples with features each, got an array of shape {found.shape}")
    return found - found.mean(0)
