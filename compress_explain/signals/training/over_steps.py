"""What several looks at a training say together, by step: courses of signals, how far seeds lie apart, how alike any two steps are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from compress_explain.signals.findings import Finding
from compress_explain.signals.probing.resampling import Estimate
from compress_explain.signals.similarity.outlines import outlines_alike
from compress_explain.signals.training.falling import spread_of
from compress_explain.signals.training.followed import Followed
from compress_explain.signals.training.observing import CKA

COURSE, SEEDS = "course", "seeds"
STRENGTH, CHANGE, REACH, SPREAD = "strength", "change", "reach", "spread"
CHECKPOINTS, TRAININGS = "cka_checkpoints", "cka_trainings"
_MAPPED = 24  # steps, of which it is told how alike any two are


def findings_over_steps(trainings: Sequence[Followed], confidence: float) -> Iterator[tuple[int, Finding]]:
    """With the step of each; of the first training, beside which the others are set."""
    yield from _courses(trainings[0], confidence)
    yield from _spreads(trainings)
    yield from _alike(trainings)


def ranges_over_seeds(trainings: Sequence[Followed]) -> dict[str, Mapping[int, float]]:
    """By signal, and for the ``loss``, how far trainings lie apart at each step that all have; empty for one alone."""
    if len(trainings) < 2:
        return {}
    common = set.intersection(*(set(one.steps) for one in trainings))
    losses = [dict(zip(one.steps, (each.value for each in one.losses), strict=True)) for one in trainings]
    found: dict[str, Mapping[int, float]] = {
        "loss": {
            step: max(each[step] for each in losses) - min(each[step] for each in losses) for step in sorted(common)
        }
    }
    shared = [signal for signal in trainings[0].courses if all(signal in one.courses for one in trainings)]
    return found | {signal: spread_of([one.courses[signal] for one in trainings]) for signal in shared}


def _courses(training: Followed, confidence: float) -> Iterator[tuple[int, Finding]]:
    """Each signal's strength at every step and the share that reaches the last layer, its change and that of the loss, by step."""
    n, losses, last = training.decisions, training.losses, training.depths[-1]
    for signal, course in training.courses.items():
        unit = training.unit(signal)
        for number, (step, strength, layer) in enumerate(
            zip(course.steps, course.strength, course.layers, strict=True)
        ):
            yield step, _told(STRENGTH, strength, unit, n, confidence, signal, layer)
            if number:
                change = strength.minus(course.strength[number - 1])
                yield step, _told(CHANGE, change, unit, n, confidence, signal, layer)
            yield step, _told(REACH, training.reaches[signal].share[number], "share", n, confidence, signal, last)
    for number, step in enumerate(training.steps):
        if number:
            yield step, _told(CHANGE, losses[number].minus(losses[number - 1]), "nats", n, confidence, "loss", "")


def _told(figure: str, estimate: Estimate, unit: str, n: int, confidence: float, signal: str, layer: str) -> Finding:
    low, high = estimate.interval(confidence)
    return Finding(
        part=COURSE, figure=figure, value=estimate.value, low=low, high=high, unit=unit, n=n, signal=signal, layer=layer
    )


def _spreads(trainings: Sequence[Followed]) -> Iterator[tuple[int, Finding]]:
    mine, note = trainings[0], f"range over {len(trainings)} seeds"
    for signal, spread in ranges_over_seeds(trainings).items():
        unit = "nats" if signal == "loss" else mine.unit(signal)
        for step, value in spread.items():
            told = Finding(
                part=SEEDS, figure=SPREAD, value=value, unit=unit, n=mine.decisions, signal=signal, note=note
            )
            yield step, told


def _alike(trainings: Sequence[Followed]) -> Iterator[tuple[int, Finding]]:
    """At the last depth: how alike any two steps are, and how alike the last steps of two trainings, which is a yardstick."""
    mine, depth = trainings[0].observations, trainings[0].depths[-1]
    places = np.linspace(0, len(mine) - 1, min(_MAPPED, len(mine))).round().astype(int)
    picked = [mine[place] for place in places]
    n = len(mine[0].outline)
    table = outlines_alike([each.outline for each in picked])
    for one, row in zip(picked, table, strict=True):
        for other, value in zip(picked, row, strict=True):
            yield one.step, _likeness(CHECKPOINTS, value, n, depth, str(other.step))
    for another in trainings[1:]:
        value = outlines_alike([mine[-1].outline, another.observations[-1].outline])[0, 1]
        yield mine[-1].step, _likeness(TRAININGS, value, n, depth, another.name)


def _likeness(figure: str, value: float, n: int, depth: str, other: str) -> Finding:
    return Finding(part=CKA, figure=figure, value=float(value), unit="CKA", n=n, layer=depth, other=other)
