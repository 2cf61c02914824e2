"""Calibration in the report: how sure both models are against how often they are right, and who is taken for whom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compress_explain.comparison.calibration import ReliabilityBin, reliability_diagram
from compress_explain.comparison.confusion_scores import confusion
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.temperature import fit_temperature, halves, is_found, losses, recalibrated_losses
from compress_explain.model.tasks import CALIBRATION, CONFIDENCE, TASKS
from compress_explain.report.charts import Scale

_LEFT, _TOP, _SIDE, _BINS = 62, 14, 340, 10
_CLASSES = 12  # most of which the confusion is shown
_FIGURES = (*CALIBRATION, "nll", "brier", *CONFIDENCE)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One model's bins as they are drawn: (x, y, y of the interval's ends), in px; with what they are of."""

    name: str
    shape: str
    points: tuple[tuple[float, float, float, float], ...]
    bins: tuple[ReliabilityBin, ...]

    @property
    def band(self) -> str:
        """The outline of the intervals, as the path of a polygon."""
        upper = [(x, high) for x, _, _, high in self.points]
        lower = [(x, low) for x, _, low, _ in reversed(self.points)]
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in (*upper, *lower)) + "Z"

    @property
    def way(self) -> str:
        return "M" + "L".join(f"{x:g} {y:g}" for x, y, _, _ in self.points)


@dataclass(frozen=True, kw_only=True)
class ConfusionRow:
    """One label: how many each model puts in every class."""

    label: str
    cells: tuple[tuple[int, int, int], ...]  # original, compressed, difference


@dataclass(frozen=True, kw_only=True)
class CalibrationSection:
    """``gaps`` are mean confidence minus accuracy, in points; ``given_back`` NLL that a temperature saves, in nats."""

    n: int
    unit: str
    gaps: tuple[float, float]
    temperatures: tuple[float, float] | None
    given_back: tuple[float, float] | None
    scores: tuple[dict[str, Any], ...]
    curves: tuple[Curve, ...]
    ticks: tuple[tuple[float, float, str], ...]
    box: tuple[float, float, float, float]
    confusion: tuple[ConfusionRow, ...]
    confidence: float


def calibrated(
    pairs: Pairs, scores: Mapping[tuple[str, str], dict[str, Any]], labels: Mapping[int, str], confidence: float = 0.90
) -> CalibrationSection | None:
    """The section; None where a task has no classes to be sure of, or nobody asked for calibration or fidelity."""
    told = {name for name, _ in scores} & {*CALIBRATION, *CONFIDENCE}
    finite = np.isfinite(pairs.original).all() and np.isfinite(pairs.compressed).all()
    if TASKS[pairs.task].decides not in ("row", "word") or not told or not finite:
        return None
    sides = pairs.original_probabilities, pairs.compressed_probabilities
    rights = pairs.original_right, pairs.compressed_right
    bins = [reliability_diagram(each, pairs.labels, _BINS, confidence) for each in sides]
    low = math.floor(10 * min(min(each.confidence, each.low) for side in bins for each in side)) / 10
    across = Scale(low=low, high=1, start=_LEFT, stop=_LEFT + _SIDE)
    up = Scale(low=low, high=1, start=_TOP + _SIDE, stop=_TOP)
    curves = tuple(
        _curve(name, shape, each, across, up)
        for name, shape, each in zip(("original", "compressed"), ("dot", "square"), bins, strict=True)
    )
    gaps = [100 * float(each.max(1).mean() - right.mean()) for each, right in zip(sides, rights, strict=True)]
    temperatures, given_back = _recalibrated(pairs)
    return CalibrationSection(
        n=len(pairs),
        unit=f"{TASKS[pairs.task].decides}s",
        gaps=(gaps[0], gaps[1]),
        temperatures=temperatures,
        given_back=given_back,
        scores=tuple(scores[name, "all"] for name in _FIGURES if (name, "all") in scores),
        curves=curves,
        ticks=tuple((across(value), up(value), f"{value:.0%}") for value in np.linspace(low, 1, 5).tolist()),
        box=(_LEFT, _TOP, _LEFT + _SIDE, _TOP + _SIDE),
        confusion=_confusion(pairs, labels),
        confidence=confidence,
    )


def _curve(name: str, shape: str, bins: tuple[ReliabilityBin, ...], across: Scale, up: Scale) -> Curve:
    points = tuple((across(each.confidence), up(each.accuracy), up(each.low), up(each.high)) for each in bins)
    return Curve(name=name, shape=shape, points=points, bins=bins)


def _recalibrated(pairs: Pairs) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Both temperatures, and the NLL that each saves on rows it was not fitted on."""
    half = halves(np.arange(len(pairs)) if pairs.owners is None else pairs.owners, seed=0)
    sides = [each.astype(float) for each in (pairs.original, pairs.compressed)]
    found = [fit_temperature(each, pairs.labels) for each in sides]
    if not all(is_found(each) for each in found) or half.all() or not half.any():
        return None, None
    saved = [
        float((losses(each, pairs.labels) - recalibrated_losses(each, pairs.labels, half)).mean()) for each in sides
    ]
    return (found[0], found[1]), (saved[0], saved[1])


def _confusion(pairs: Pairs, labels: Mapping[int, str]) -> tuple[ConfusionRow, ...]:
    classes = pairs.original.shape[1]
    if classes > _CLASSES:
        return ()
    before, after = (
        confusion(pairs.labels, each, classes) for each in (pairs.original_guesses, pairs.compressed_guesses)
    )
    names = dict(enumerate(pairs.names)) | dict(labels)
    return tuple(
        ConfusionRow(
            label=names.get(k, str(k)),
            cells=tuple((int(a), int(b), int(b - a)) for a, b in zip(before[k], after[k], strict=True)),
        )
        for k in range(classes)
    )
