"""When a signal forms while a model trains, at which layer, and whether training keeps it; told of looks at several steps.

A signal's strength at a step is what it shows above the control at the layer that shows most. Layer, and the step of the maximum, are
chosen on rows that are not reported, part by part: the maximum of many figures is else larger than what it stands for, and
everything after it would look like a loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from compress_explain.signals.probing.resampling import Estimate, Readings
from compress_explain.signals.training.observing import Observation

FORMED = 0.9  # of the maximum

Verdict = Literal["kept", "weakened", "erased", "absent"]


@dataclass(frozen=True, kw_only=True)
class Course:
    """One signal over the steps of a training.

    ``strength`` and ``layers`` are those of each step. ``peak`` is the maximum, ``peaked`` the number of its step, ``where`` its
    layer. ``formed`` is the number of the first step with 90% of the maximum, None for a signal that never shows. ``kept`` is the
    last step's share of the maximum.
    """

    signal: str
    steps: tuple[int, ...]
    strength: tuple[Estimate, ...] = field(repr=False)
    layers: tuple[str, ...] = field(repr=False)
    peak: Estimate = field(repr=False)
    peaked: int
    where: str
    formed: int | None
    kept: Estimate = field(repr=False)
    verdict: Verdict


def course_of(signal: str, observations: Sequence[Observation], depths: Sequence[str], confidence: float) -> Course:
    """The course of one signal over looks in the order of their steps; ``depths`` are the layers' names."""
    looks = [each.above[signal] for each in observations]
    best = [each.best for each in looks]  # one depth a part
    strength = tuple(each.at(depth) for each, depth in zip(looks, best, strict=True))
    parts = np.arange(len(looks[0].weights))
    choosing = np.array([each.choosing[parts, depth] for each, depth in zip(looks, best, strict=True)])
    top: Int[np.ndarray, " parts"] = np.where(np.isnan(choosing), -np.inf, choosing).argmax(0)
    peak = _mixed(looks, top, best)
    usual = _usual(top)
    shows = not math.isnan(peak.value) and peak.interval(confidence)[0] > 0
    kept = strength[-1].share_of(peak)
    enough = (number for number, each in enumerate(strength) if each.value >= FORMED * peak.value)
    return Course(
        signal=signal, steps=tuple(each.step for each in observations), strength=strength,
        layers=tuple(depths[_usual(depth)] for depth in best), peak=peak, peaked=usual,
        where=depths[_usual(np.array([best[step][part] for part, step in enumerate(top)]))],
        formed=next(enough, usual) if shows else None, kept=kept,
        verdict=_verdict(strength[-1], kept, confidence) if shows else "absent",
    )  # fmt: skip


def _mixed(looks: Sequence[Readings], steps: Int[np.ndarray, " parts"], best: Sequence[np.ndarray]) -> Estimate:
    """The figure of each part at a step and depth of its own, as one."""
    weights = looks[0].weights
    cells = [(looks[step], part, best[step][part]) for part, step in enumerate(steps)]
    values: Float[np.ndarray, " parts"] = np.array([each.values[part, depth] for each, part, depth in cells])
    draws: Float[np.ndarray, "parts resamples"] = np.array([each.draws[part, depth] for each, part, depth in cells])
    return Estimate(value=float(weights @ values), draws=weights @ draws)


def _usual(numbers: Int[np.ndarray, " parts"]) -> int:
    """The commonest of some numbers, the smallest of those that are equally common."""
    return int(np.bincount(numbers).argmax())


def _verdict(last: Estimate, kept: Estimate, confidence: float) -> Verdict:
    """Erased: no more than the control shows. Weakened: surely less than the maximum."""
    if last.interval(confidence)[0] <= 0:
        return "erased"
    return "weakened" if kept.interval(confidence)[1] < 1 else "kept"
