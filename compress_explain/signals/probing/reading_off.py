"""A question asked of every depth of a model: a probe fitted, and how well it answers rows that it has not seen."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int

from compress_explain.signals.probing.asked import Asked
from compress_explain.signals.probing.probes import area, fit_probe, resampled_area
from compress_explain.signals.probing.resampling import Draws, Readings
from compress_explain.signals.stream.states import States

CHANCE = 0.5  # the area of answers that know nothing
_FEW = 10  # decisions of a class, below which nothing is told of it


def fewest(asked: Asked, draws: Draws) -> int:
    """About how many of the reported decisions the smallest class has."""
    return min(asked.least(part.report) for part in draws.parts) * len(draws.parts)


def too_few(asked: Asked, draws: Draws) -> str:
    """Why nothing can be told of a question; empty where its classes have enough decisions."""
    few = fewest(asked, draws)
    if few >= _FEW:
        return ""
    return f"one of its {asked.classes} classes has about {few} of the decisions that are reported, too few to tell"


def read_off(states: States, asked: Asked, draws: Draws, strength: float, *, shuffled: int | None = None) -> Readings:
    """Areas under the ROC curve of probes at every depth. With a seed to be ``shuffled`` by, probes learn from shuffled answers.

    Where the rows to fit on hold fewer than two of a class, the figure is NaN.
    """
    values, choosing, drawn = [], [], []
    for part, counts in zip(draws.parts, draws.counts, strict=True):
        learned = asked.answers[part.fit]
        if shuffled is not None:
            learned = np.random.default_rng(shuffled).permutation(learned)
        told = [
            _told(states, depth, asked, learned, (part.fit, part.choose, part.report), counts, strength)
            for depth in states.depths
        ]
        values.append([each[0] for each in told])
        choosing.append([each[1] for each in told])
        drawn.append([each[2] for each in told])
    return Readings(values=np.array(values), draws=np.array(drawn), choosing=np.array(choosing), weights=draws.weights)


def _told(
    states: States,
    depth: str,
    asked: Asked,
    learned: Int[np.ndarray, " fit"],
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    counts: Int[np.ndarray, "resamples n"],
    strength: float,
) -> tuple[float, float, np.ndarray]:
    fit, choose, report = parts
    if len(np.unique(learned)) < 2:
        return math.nan, math.nan, np.full(len(counts), math.nan)
    here = states.at(depth)
    probe = fit_probe(here[fit], learned, strength, asked.classes)
    scores, answers = probe.scores(here[report]), asked.answers[report]
    return (
        area(scores, answers),
        area(probe.scores(here[choose]), asked.answers[choose]),
        resampled_area(scores, answers, counts),
    )
