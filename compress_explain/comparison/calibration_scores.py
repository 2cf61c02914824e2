"""Calibration of both models from the same rows, every figure from the same resamples.

Each figure is a function of sums over rows, so that drawing rows again is one product of matrices. Bins, halves and
temperatures are those of all rows; a temperature follows a resample by one Newton step (the one-step bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, hstack

from compress_explain.comparison.binned import debiased_squared, equal_mass_bins, signed_root, squared_gap
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Direction, Score
from compress_explain.comparison.temperature import fit_temperature, halves, is_found, recalibrated_losses, slopes
from compress_explain.data.examples import ALL
from compress_explain.model.tasks import CALIBRATION, TASKS
from compress_explain.stats import resampled_counts, unseen_rate_bound

_RESAMPLES, _FEWEST = 2000, 400
_WORK = 400_000_000  # additions of resamples before there are fewer of them
_ROWS_A_BIN = 5  # below which bins say nothing
_UNITS = {"temperature": "logits per logit", "nll_recalibrated": "nats"}
_BRIER = "squared probability"
_BIASED = ("ece", "ece_equal_mass", "ece_classwise", "brier_reliability", "brier_resolution")
_NEVER_NEGATIVE = ("ece_equal_mass", "ece_classwise", "brier_reliability")

Sums = Mapping[str, np.ndarray]  # name: (*many, columns)


def calibration_scores(pairs: Pairs, confidence: float = 0.90, bins: int = 15, seed: int = 0) -> list[Score]:
    """All of :data:`~compress_explain.model.tasks.CALIBRATION`, where rows or words are decided on and logits are finite."""
    finite = np.isfinite(pairs.original).all() and np.isfinite(pairs.compressed).all()
    if TASKS[pairs.task].decides not in ("row", "word") or len(pairs) < 2 or not finite:
        return []
    owners = np.arange(len(pairs)) if pairs.owners is None else pairs.owners
    numbers = np.unique(owners, return_inverse=True)[1]
    half = halves(numbers, seed)
    sides = [_Side.of(logits.astype(float), pairs.labels, bins, half) for logits in (pairs.original, pairs.compressed)]
    found = [side.drawn(numbers, seed) for side in sides]
    return [_score(name, pairs, sides, found, confidence, bins) for name in CALIBRATION if name in found[0][0]]


@dataclass(frozen=True, kw_only=True)
class _Side:
    """What each row of one model adds to every sum; ``widths`` are how many columns each name has, in order."""

    columns: csr_array = field(repr=False)
    widths: dict[str, int]
    inverse: float  # 1/T
    spread: float  # of the recalibrated losses

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray, bins: int, half: np.ndarray) -> _Side:
        n, classes = logits.shape
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        outcomes = np.eye(classes)[labels]
        given, right = probabilities.max(1), (probabilities.argmax(1) == labels).astype(float)
        top = equal_mass_bins(given, bins)
        by_class = np.stack([k * bins + equal_mass_bins(probabilities[:, k], bins) for k in range(classes)], 1)
        temperature = fit_temperature(logits, labels)
        recalibrated = recalibrated_losses(logits, labels, half)
        blocks = {
            "count": _in_bins(top[:, None], np.ones((n, 1)), bins),
            "confidence": _in_bins(top[:, None], given[:, None], bins),
            "right": _in_bins(top[:, None], right[:, None], bins),
            "class_count": _in_bins(by_class, np.ones((n, classes)), classes * bins),
            "class_gap": _in_bins(by_class, probabilities - outcomes, classes * bins),
            "of_class": csr_array(outcomes),
            "brier": csr_array(np.square(probabilities - outcomes).sum(1, keepdims=True)),
            "slopes": csr_array(np.stack(slopes(logits, labels, temperature), 1)),
            "loss": csr_array(recalibrated[:, None]),
        }
        return cls(
            columns=csr_array(hstack(list(blocks.values()))),
            widths={name: block.shape[1] for name, block in blocks.items()},
            inverse=1 / temperature,
            spread=max(float(np.ptp(recalibrated)), 1e-12),
        )

    def drawn(self, numbers: Int[np.ndarray, " n"], seed: int) -> tuple[Sums, Sums, Sums]:
        """Every figure, in all rows and in each resample; and what is the truth to a resample, where that is biased."""
        n = int(numbers.max()) + 1
        of_owner = csr_array((np.ones(len(numbers)), (numbers, np.arange(len(numbers)))), shape=(n, len(numbers)))
        counted = csr_array(of_owner @ self.columns)
        resamples = int(min(_RESAMPLES, max(_FEWEST, _WORK / max(counted.nnz, 1))))
        sums = np.concatenate([np.asarray(times @ counted) for times in resampled_counts(n, resamples, seed)])
        whole = np.asarray(counted.sum(0))
        plain = self._named(whole)
        centre = squared_gap(plain["count"], plain["confidence"] - plain["right"]) / plain["count"].sum(-1)
        figures = self._figures(plain)
        return figures, self._figures(self._named(sums)), {**figures, "ece": np.asarray(centre)}

    def _named(self, sums: np.ndarray) -> Sums:
        ends = np.cumsum(list(self.widths.values()))[:-1]
        return dict(zip(self.widths, np.split(sums, ends, axis=-1), strict=True))

    def _figures(self, sums: Sums) -> Sums:
        """``ece`` is squared still: on that scale it is without bias, and can be shifted."""
        total, classes = sums["count"].sum(-1), sums["of_class"].shape[-1]
        reliability = squared_gap(sums["class_count"], sums["class_gap"]) / total
        rates = sums["of_class"] / total[..., None]
        figures = {
            "ece": debiased_squared(sums["count"], sums["confidence"], sums["right"]),
            "ece_equal_mass": np.abs(sums["confidence"] - sums["right"]).sum(-1) / total,
            "ece_classwise": np.abs(sums["class_gap"]).sum(-1) / total / classes,
            "brier_reliability": reliability,
            "brier_resolution": reliability + (rates * (1 - rates)).sum(-1) - sums["brier"][..., 0] / total,
        }
        step = sums["slopes"][..., 0] / np.maximum(sums["slopes"][..., 1], 1e-12)
        figures["temperature"] = 1 / np.clip(self.inverse - step, self.inverse / 10, None)
        if np.isfinite(sums["loss"]).all():
            figures["nll_recalibrated"] = sums["loss"][..., 0] / total
        return {name: np.asarray(value) for name, value in figures.items()}


def _in_bins(numbers: Int[np.ndarray, "n each"], values: Float[np.ndarray, "n each"], bins: int) -> csr_array:
    rows = np.repeat(np.arange(len(numbers)), numbers.shape[1])
    return csr_array((values.ravel(), (rows, numbers.ravel())), shape=(len(numbers), bins))


def _score(
    name: str,
    pairs: Pairs,
    sides: list[_Side],
    found: list[tuple[Sums, Sums, Sums]],
    confidence: float,
    bins: int,
) -> Score:
    values, draws = [], []
    for whole, resampled, truth in found:
        spread = resampled[name] - truth[name]
        values.append(float(signed_root(whole[name]) if name == "ece" else whole[name]))
        around = whole[name] - spread if name in _BIASED else whole[name] + spread
        draws.append(signed_root(around) if name == "ece" else around)
    unseen = unseen_rate_bound(pairs.independent, confidence) * _size(name, values, sides)
    low, high = _interval(values[1] - values[0], draws[1] - draws[0], confidence, unseen)
    own_low, own_high = _interval(values[1], draws[1], confidence, unseen)
    if name in _NEVER_NEGATIVE:
        own_low = max(0.0, own_low)
    return Score(
        metric=name,
        slice=ALL,
        original=values[0],
        compressed=values[1],
        difference=values[1] - values[0],
        low=low,
        high=high,
        compressed_low=own_low,
        compressed_high=own_high,
        n=pairs.independent,
        unit=_UNITS.get(name, _BRIER if name.startswith("brier") else "share"),
        direction=_direction(name),
        confidence=confidence,
        doubt=_doubt(name, pairs, sides, bins),
    )


def _direction(name: str) -> Direction:
    return "higher" if name == "brier_resolution" else "lower"


def _size(name: str, values: list[float], sides: list[_Side]) -> float:
    """How far a row that was not seen could lie from the others."""
    if name == "nll_recalibrated":
        return max(side.spread for side in sides)
    return max(values) if name == "temperature" else 1.0


def _interval(value: float, draws: np.ndarray, confidence: float, unseen: float) -> tuple[float, float]:
    """Quantiles, which hold the estimate; where nothing moves it, what could have gone unseen."""
    if np.ptp(draws) <= 1e-12:
        return value - unseen, value + unseen
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return min(float(low), value), max(float(high), value)


def _doubt(name: str, pairs: Pairs, sides: list[_Side], bins: int) -> str:
    if name in ("temperature", "nll_recalibrated"):
        fitted = all(is_found(1 / side.inverse) for side in sides)
        return (
            "" if fitted else f"no temperature fits best: {pairs.independent} rows are all right, or as good as random"
        )
    few = pairs.independent < _ROWS_A_BIN * bins
    return f"{pairs.independent} rows are too few for {bins} bins" if few else ""
