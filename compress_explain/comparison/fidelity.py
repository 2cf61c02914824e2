"""How far the compressed model says what the original says, whatever is right.

Of a vocabulary few choices are kept, so that divergences are those of the coarser distribution, and at most the true ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy.special import rel_entr

from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Direction, Score
from compress_explain.data.examples import ALL
from compress_explain.model.tasks import TASKS
from compress_explain.stats import rate_interval, resampled_sums, unseen_rate_bound

_MOST = {"churn": 1.0, "probability_loyalty": 1.0, "js": math.log(2), "kl": 1.0}
_UNITS = {"js": "nats", "kl": "nats"}
_DIRECTIONS: Mapping[str, Direction] = MappingProxyType(
    {"churn": "lower", "js": "lower", "kl": "lower", "probability_loyalty": "higher",
     "confidence_when_right": "higher", "confidence_when_wrong": "lower"}
)  # fmt: skip


def churn(pairs: Pairs) -> Float[np.ndarray, " n"]:
    """1 where the models decide differently, else 0 (Milani Fard et al. 2016). One minus its mean is the label loyalty of Xu et al. (2021)."""
    return (pairs.original_guesses != pairs.compressed_guesses).astype(float)


def kl(pairs: Pairs) -> Float[np.ndarray, " n"]:
    """Kullback and Leibler's divergence of each decision, the compressed model's distribution from the original's, in nats."""
    compressed = np.maximum(pairs.compressed_probabilities, 1e-300)
    return np.asarray(np.maximum(rel_entr(pairs.original_probabilities, compressed).sum(1), 0.0))


def js(pairs: Pairs) -> Float[np.ndarray, " n"]:
    """Jensen and Shannon's divergence of each decision (Lin 1991), in nats: at most the logarithm of 2."""
    sides = pairs.original_probabilities, pairs.compressed_probabilities
    middle = (sides[0] + sides[1]) / 2
    return np.asarray(np.clip(sum(rel_entr(side, middle).sum(1) for side in sides) / 2, 0.0, math.log(2)))


def probability_loyalty(pairs: Pairs) -> Float[np.ndarray, " n"]:
    """1 minus the root of the Jensen-Shannon divergence in bits, in [0, 1] (Xu et al., EMNLP 2021, arXiv 2109.03228)."""
    return 1 - np.sqrt(js(pairs) / math.log(2))


_VALUES = MappingProxyType({"churn": churn, "probability_loyalty": probability_loyalty, "js": js, "kl": kl})


def fidelity_scores(pairs: Pairs, confidence: float = 0.90, seed: int = 0) -> list[Score]:
    """Of all decisions; nothing where a prediction is not a finite number.

    The original agrees with itself: its divergence is 0 and its loyalty 1.
    """
    if not (np.isfinite(pairs.original).all() and np.isfinite(pairs.compressed).all()):
        return []
    scores = [_of_values(name, pairs, confidence, seed) for name in _VALUES]
    if TASKS[pairs.task].decides in ("row", "word"):
        scores += [_of_confidence(name, pairs, confidence, seed) for name in ("confidence_when_right", "confidence_when_wrong")
                   if _told(name, pairs)]  # fmt: skip
    return scores


def _of_values(name: str, pairs: Pairs, confidence: float, seed: int) -> Score:
    values = _VALUES[name](pairs)
    mean, itself = float(values.mean()), 1.0 if name == "probability_loyalty" else 0.0
    if name == "churn" and pairs.owners is None:
        low, high = rate_interval(int(values.sum()), len(values), confidence)
    else:
        sums = resampled_sums(_by_owner(pairs, values, np.ones(len(values))), seed=seed)
        unseen = unseen_rate_bound(pairs.independent, confidence) * _MOST[name]
        low, high = _interval(mean, sums[:, 0] / sums[:, 1], confidence, unseen)
        low, high = max(low, 0.0), high if name == "kl" else min(high, _MOST[name])
    return _score(name, pairs, (itself, mean), (low - itself, high - itself), (low, high), confidence)


def _told(name: str, pairs: Pairs) -> bool:
    sides = (_meant(name, right) for right in (pairs.original_right, pairs.compressed_right))
    return all(meant.any() for meant in sides)


def _meant(name: str, right: np.ndarray) -> np.ndarray:
    return right if name == "confidence_when_right" else ~right


def _of_confidence(name: str, pairs: Pairs, confidence: float, seed: int) -> Score:
    """The mean probability that a model gives its own answer where that is right, or wrong; of each on its own such rows."""
    counted = []
    for probabilities, right in (
        (pairs.original_probabilities, pairs.original_right),
        (pairs.compressed_probabilities, pairs.compressed_right),
    ):
        meant = _meant(name, right).astype(float)
        counted += [probabilities.max(1) * meant, meant]
    sums = resampled_sums(_by_owner(pairs, *counted), seed=seed)
    sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
    original, compressed = (float(counted[at].sum() / counted[at + 1].sum()) for at in (0, 2))
    draws = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    fewest = int(min(counted[1].sum(), counted[3].sum()))
    unseen = unseen_rate_bound(fewest, confidence)
    apart = _interval(compressed - original, draws[1] - draws[0], confidence, unseen)
    own_low, own_high = _interval(compressed, draws[1], confidence, unseen)
    own = max(0.0, own_low), min(1.0, own_high)
    doubt = f"only {fewest} rows are {'right' if name.endswith('right') else 'wrong'}" if fewest < 10 else ""
    return _score(name, pairs, (original, compressed), apart, own, confidence, doubt)


def _by_owner(pairs: Pairs, *values: np.ndarray) -> Float[np.ndarray, "owners values"]:
    if pairs.owners is None:
        return np.stack(values, 1)
    numbers = np.unique(pairs.owners, return_inverse=True)[1]
    return np.stack([np.bincount(numbers, weights=each) for each in values], 1)


def _interval(value: float, draws: np.ndarray, confidence: float, unseen: float) -> tuple[float, float]:
    if not len(draws) or np.ptp(draws) == 0:
        return value - unseen, value + unseen
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return min(float(low), value), max(float(high), value)


def _score(
    name: str,
    pairs: Pairs,
    values: tuple[float, float],
    apart: tuple[float, float],
    own: tuple[float, float],
    confidence: float,
    doubt: str = "",
) -> Score:
    return Score(
        metric=name,
        slice=ALL,
        original=values[0],
        compressed=values[1],
        difference=values[1] - values[0],
        low=apart[0],
        high=apart[1],
        compressed_low=own[0],
        compressed_high=own[1],
        n=pairs.independent,
        unit=_UNITS.get(name, "share"),
        direction=_DIRECTIONS[name],
        confidence=confidence,
        doubt=doubt,
    )
