"""Figures that depend on counts of (label, what the original says, what the compressed model says) alone.

Rows drawn again are counts drawn again: one multinomial draw of the joint cells is a bootstrap resample of any number of rows,
exactly, and both models' confusion matrices follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, t

from compress_explain.comparison.predictions import Pairs
from compress_explain.stats import unseen_rate_bound

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of each class how many rows a model decides rightly, how many it puts in it, and how many there are."""

    right: Float[np.ndarray, "*many classes"] = field(repr=False)
    guessed: Float[np.ndarray, "*many classes"] = field(repr=False)
    labelled: Float[np.ndarray, "*many classes"] = field(repr=False)

    @property
    def seen(self) -> np.ndarray:
        """Classes that occur, as a label or as a guess: those that scikit-learn averages over."""
        return (self.guessed + self.labelled) > 0


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The joint cells that any row stands in, and how many do."""

    counts: Int[np.ndarray, " cells"]
    labels: Int[np.ndarray, " cells"]
    original: Int[np.ndarray, " cells"]
    compressed: Int[np.ndarray, " cells"]
    classes: int

    @classmethod
    def of(cls, pairs: Pairs) -> Cells:
        rows = np.stack([pairs.labels, pairs.original_guesses, pairs.compressed_guesses])
        cells, counts = np.unique(rows, axis=1, return_counts=True)
        return cls(
            counts=counts, labels=cells[0], original=cells[1], compressed=cells[2], classes=pairs.original.shape[1]
        )

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def changed(self) -> int:
        """How many rows the models decide differently."""
        return int(self.counts[self.original != self.compressed].sum())

    def drawn(self, seed: int) -> Float[np.ndarray, "resamples cells"]:
        generator = np.random.default_rng(seed)
        return generator.multinomial(self.n, self.counts / self.n, _RESAMPLES).astype(float)

    def both(self, counts: Float[np.ndarray, "*many cells"]) -> tuple[Counts, Counts]:
        """Of the original and of the compressed model, for the rows or for resamples of them."""
        kinds = np.eye(self.classes)
        labelled = counts @ kinds[self.labels]
        sides = []
        for guesses in (self.original, self.compressed):
            hits = kinds[self.labels] * (guesses == self.labels)[:, None]
            sides.append(Counts(right=counts @ hits, guessed=counts @ kinds[guesses], labelled=labelled))
        return sides[0], sides[1]


Figure = Callable[[Counts], np.ndarray]


def of_counts(
    figure: Figure, pairs: Pairs, confidence: float, seed: int
) -> tuple[float, float, float, float, float, float]:
    """Both models' figures with percentile intervals of the difference and of the compressed model's own.

    The interval of the difference is stretched as one of few changes has to be: by Student's t over the normal quantile, and to the
    variance with half of one more changed row. Where no row changed, the bound on what was not seen takes its place.
    """
    cells = Cells.of(pairs)
    original, compressed = (float(figure(each)) for each in cells.both(cells.counts.astype(float)))
    draws = [figure(each) for each in cells.both(cells.drawn(seed))]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    own_low, own_high = (float(bound) for bound in np.quantile(draws[1], tails))
    unseen = unseen_rate_bound(cells.n, confidence)
    if own_low == own_high:
        own_low, own_high = compressed - unseen, compressed + unseen
    if not cells.changed:
        return original, compressed, -unseen, unseen, own_low, own_high
    middle, stretch = compressed - original, _stretch(cells, confidence)
    low, high = (middle + stretch * (float(bound) - middle) for bound in np.quantile(draws[1] - draws[0], tails))
    return original, compressed, min(low, middle), max(high, middle), own_low, own_high


def of_one_class(number: int, name: str) -> Figure:
    """``precision``, ``recall`` or ``f1`` of one class; 0 where it is not defined, as scikit-learn has it."""
    return lambda counts: _BY_CLASS[name](counts)[..., number]


def confusion(
    labels: Int[np.ndarray, " n"], guesses: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """How many rows of each label (lines) a model puts in each class (columns)."""
    return np.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes)


def _stretch(cells: Cells, confidence: float) -> float:
    tail, n = (1 + confidence) / 2, cells.n
    student = t.ppf(tail, max(n - 1, 1)) / norm.ppf(tail)
    return float(student * math.sqrt(1 + 1 / (2 * cells.changed)))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1.0), 0.0)


def _precision(counts: Counts) -> np.ndarray:
    return _ratio(counts.right, counts.guessed)


def _recall(counts: Counts) -> np.ndarray:
    return _ratio(counts.right, counts.labelled)


def _f1(counts: Counts) -> np.ndarray:
    return _ratio(2 * counts.right, counts.guessed + counts.labelled)


def _mean(values: np.ndarray, over: np.ndarray) -> np.ndarray:
    return np.asarray((values * over).sum(-1) / np.maximum(over.sum(-1), 1))


def _macro(each: Callable[[Counts], np.ndarray]) -> Figure:
    return lambda counts: _mean(each(counts), counts.seen)


def _mcc(counts: Counts) -> np.ndarray:
    """Matthews' correlation of labels and guesses, for any number of classes (Gorodkin 2004); 0 where either is constant."""
    n = counts.labelled.sum(-1)
    together = counts.right.sum(-1) * n - (counts.guessed * counts.labelled).sum(-1)
    spreads = [np.square(n) - np.square(each).sum(-1) for each in (counts.guessed, counts.labelled)]
    whole = np.sqrt(spreads[0] * spreads[1])
    return np.asarray(np.where(whole > 0, together / np.maximum(whole, 1e-12), 0.0))


_BY_CLASS: Mapping[str, Callable[[Counts], np.ndarray]] = MappingProxyType(
    {"precision": _precision, "recall": _recall, "f1": _f1}
)
BALANCED_ACCURACY: Figure = lambda counts: _mean(_recall(counts), counts.labelled > 0)  # noqa: E731
MACRO_PRECISION = _macro(_precision)
MACRO_RECALL = _macro(_recall)
MACRO_F1 = _macro(_f1)
MCC: Figure = _mcc
