"""Figures of rows that hold several decisions: what is added up over rows, and intervals by resampling whole rows.

Decisions about one sentence are not independent of one another, so the rows are what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from compress_explain.comparison.predictions import Pairs
from compress_explain.data.entities import entities
from compress_explain.stats import bootstrap_rows, resampled_sums, unseen_rate_bound

_RESAMPLES = 2000
Both = tuple[np.ndarray, np.ndarray]  # of the original and of the compressed model


@dataclass(frozen=True, kw_only=True)
class OfRows:
    """A figure as a function of sums over rows.

    ``count`` gives for both models what each row adds, ``(rows, sums)``; ``value`` makes the figure of
    the sums, over the last axis.
    """

    count: Callable[[Pairs], Both]
    value: Callable[[Float[np.ndarray, "*many sums"]], np.ndarray]


def clustered(
    figure: OfRows, share: bool, pairs: Pairs, confidence: float, seed: int
) -> tuple[float, float, float, float, float, float]:
    """Both models' figures with percentile intervals of the difference and of the compressed model's own.

    Where no resample differs from another, no row did, and the bound on the share of rows of which
    nothing was seen takes the place of certainty. ``share`` says that the figure lies in [0, 1].
    """
    counted = figure.count(pairs)
    original, compressed = (float(figure.value(each.sum(0))) for each in counted)
    wide = counted[0].shape[1]
    sums = resampled_sums(np.concatenate(counted, axis=1), seed=seed)
    draws = figure.value(sums[:, :wide]), figure.value(sums[:, wide:])
    spread = 1.0 if share else _spread(figure.value(counted[0]))
    unseen = unseen_rate_bound(len(counted[0]), confidence) * spread
    low, high = _interval(draws[1] - draws[0], confidence, unseen)
    own_low, own_high = _interval(draws[1], confidence, unseen)
    if share:
        own_low, own_high = (float(bound) for bound in np.clip([own_low, own_high], 0, 1))  # NaN stays
    if original == 0:  # flips are none of the original's: the difference is the figure itself
        low, high = own_low, own_high
    return original, compressed, low, high, own_low, own_high


def _interval(draws: np.ndarray, confidence: float, unseen: float) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    if np.ptp(known) == 0:
        return float(known[0]) - unseen, float(known[0]) + unseen
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _spread(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return max(float(np.ptp(known)) if len(known) else 0.0, 1e-12)


def mean_of_decisions(
    values: Callable[[Pairs, Float[np.ndarray, "n classes"]], Float[np.ndarray, " n"]],
    *,
    then: Callable[[np.ndarray], np.ndarray] = lambda mean: mean,
) -> OfRows:
    """The mean of a value of each decision, given the probabilities of its choices; ``then`` makes the figure of it."""

    def count(pairs: Pairs) -> Both:
        original = values(pairs, pairs.original_probabilities)
        return _with_counts(pairs, original, values(pairs, pairs.compressed_probabilities))

    return OfRows(count=count, value=lambda sums: then(_ratio(sums)))


def _mean_of_flags(flags: Callable[[Pairs], Both]) -> OfRows:
    return OfRows(count=lambda pairs: _with_counts(pairs, *flags(pairs)), value=_ratio)


def _with_counts(pairs: Pairs, original: np.ndarray, compressed: np.ndarray) -> Both:
    """Sums of two values over each row's decisions, each beside how many decisions there are."""
    numbers = _numbers(pairs)
    sums = [np.bincount(numbers, weights=values) for values in (original, compressed, np.ones(len(pairs)))]
    return np.stack([sums[0], sums[2]], 1), np.stack([sums[1], sums[2]], 1)


def _numbers(pairs: Pairs) -> np.ndarray:
    """For each decision the number of its row among the rows that have any."""
    assert pairs.owners is not None, "of rows with several decisions"
    return np.unique(pairs.owners, return_inverse=True)[1]


def _ratio(sums: Float[np.ndarray, "*many sums"]) -> np.ndarray:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _flipped(before: np.ndarray, after: np.ndarray) -> Both:
    return np.zeros(len(before)), (before & after).astype(float)


def _entity_counts(pairs: Pairs) -> Both:
    """For each row twice the entities found that are right, and all entities, found or to be found; the latter alone too."""
    ends = np.cumsum(np.bincount(_numbers(pairs)))[:-1]
    tags = [
        [[pairs.names[tag] for tag in row] for row in np.split(numbers, ends)]
        for numbers in (pairs.labels, pairs.original_guesses, pairs.compressed_guesses)
    ]
    right, *found = ([entities(row) for row in rows] for rows in tags)
    original, compressed = (
        np.array([[2 * len(r & f), len(r) + len(f), len(r)] for r, f in zip(right, each, strict=True)], dtype=float)
        for each in found
    )
    return original, compressed


def _f1(sums: Float[np.ndarray, "*many sums"]) -> np.ndarray:
    """Undefined where there is no entity to be found."""
    return np.where(sums[..., 2] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1), np.nan)


def bits_of_bytes(
    losses: Callable[[Pairs, Float[np.ndarray, "n classes"]], Float[np.ndarray, " n"]],
) -> OfRows:
    """The loss in bits for each byte of the text that is predicted, so that tokenizers can be compared."""

    def count(pairs: Pairs) -> Both:
        assert pairs.text_bytes is not None, "of texts whose bytes were counted"
        numbers = _numbers(pairs)
        told = np.bincount(numbers, weights=pairs.text_bytes)
        sides = (
            losses(pairs, each) / np.log(2) for each in (pairs.original_probabilities, pairs.compressed_probabilities)
        )
        original, compressed = (np.stack([np.bincount(numbers, weights=each), told], 1) for each in sides)
        return original, compressed

    return OfRows(count=count, value=_ratio)


def _of_answers(original: str, compressed: str) -> OfRows:
    """The mean over rows of what is told of both models' answers, by its name in :class:`~.paired_spans.PairedSpans`."""

    def count(pairs: Pairs) -> Both:
        assert pairs.spans is not None, "of answers to questions"
        return _with_counts(pairs, getattr(pairs.spans, original), getattr(pairs.spans, compressed))

    return OfRows(count=count, value=_ratio)


def _agreements(pairs: Pairs) -> Both:
    assert pairs.spans is not None, "of answers to questions"
    return _with_counts(pairs, np.ones(len(pairs)), pairs.spans.same_answer)


def _of_texts(name: str) -> OfRows:
    """The mean over texts of how alike both models' embeddings are, by its name in :class:`~.paired_embeddings.PairedEmbeddings`."""

    def count(pairs: Pairs) -> Both:
        assert pairs.embeddings is not None, "of embeddings"
        return _with_counts(pairs, np.ones(len(pairs)), getattr(pairs.embeddings, name))

    return OfRows(count=count, value=_ratio)


def rank_correlation(pairs: Pairs, confidence: float, seed: int) -> tuple[float, float, float, float, float, float]:
    """Spearman's rho of the cosine of two texts with the similarity that people gave, of both models.

    Intervals are percentiles over pairs drawn again, ranked anew each time. NaN where nobody gave any.
    """
    told = pairs.embeddings
    assert told is not None and pairs.places is not None, "of embeddings"
    first = pairs.places == 0
    human = told.human_similarity[first]
    if len(human) < 3 or not np.isfinite(human).all():
        return (float("nan"),) * 6
    sides = [each[first] for each in (told.original_similarity, told.compressed_similarity)]
    original, compressed = (float(_rho(human[None], each[None])[0]) for each in sides)
    drawn = [[_rho(human[rows], each[rows]) for each in sides] for rows in bootstrap_rows(len(human), _RESAMPLES, seed)]
    draws = [np.concatenate([part[side] for part in drawn]) for side in range(2)]
    low, high = _interval(draws[1] - draws[0], confidence, unseen_rate_bound(len(human), confidence))
    own_low, own_high = _interval(draws[1], confidence, 0.0)
    return original, compressed, low, high, own_low, own_high


def _rho(x: Float[np.ndarray, "many n"], y: Float[np.ndarray, "many n"]) -> Float[np.ndarray, " many"]:
    ranks = [rankdata(each, axis=1) for each in (x, y)]
    centred = [each - each.mean(1, keepdims=True) for each in ranks]
    spread = np.sqrt((centred[0] ** 2).sum(1) * (centred[1] ** 2).sum(1))
    with np.errstate(invalid="ignore"):
        return np.asarray((centred[0] * centred[1]).sum(1) / spread)


MEAN_RIGHT = _mean_of_flags(lambda pairs: (pairs.original_right.astype(float), pairs.compressed_right.astype(float)))
FLIPS_TO_WRONG = _mean_of_flags(lambda pairs: _flipped(pairs.original_right, ~pairs.compressed_right))
FLIPS_TO_RIGHT = _mean_of_flags(lambda pairs: _flipped(~pairs.original_right, pairs.compressed_right))
EXACT_MATCH = _of_answers("original_exact", "compressed_exact")
TOKEN_F1 = _of_answers("original_f1", "compressed_f1")
COSINE = _of_texts("cosine")
OVERLAP = _of_texts("overlap")
SAME_ANSWER = OfRows(count=_agreements, value=_ratio)
ENTITY_F1 = OfRows(count=_entity_counts, value=_f1)
