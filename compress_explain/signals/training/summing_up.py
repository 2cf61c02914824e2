"""What became of each signal of a training, as plain values: ``observed.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from compress_explain.signals.probing.resampling import Estimate
from compress_explain.signals.training.falling import Fall, by_chance, falls_of
from compress_explain.signals.training.followed import Followed
from compress_explain.signals.training.observing import LEFT_OUT, Observing
from compress_explain.signals.training.over_steps import ranges_over_seeds


def summed_up(trainings: Sequence[Followed], observing: Observing) -> dict[str, Any]:
    """Of the first training, with the others as other seeds of it."""
    mine, confidence = trainings[0], observing.confidence
    falls = [
        fall
        for signal, course in mine.courses.items()
        for fall in falls_of(
            course, mine.observations, confidence,
            [one.courses[signal] for one in trainings[1:] if signal in one.courses],
        )
    ]  # fmt: skip
    return {
        "training": mine.name,
        "seeds": [each.name for each in trainings[1:]],
        "settings": asdict(observing),
        "decisions": mine.decisions,
        "depths": list(mine.depths),
        "steps": list(mine.steps),
        "loss": _losses(mine, confidence),
        "signals": _signals(mine, confidence),
        "left_out": {each.signal: each.note for each in mine.observations[0].findings if each.part == LEFT_OUT},
        "falls": [_of_fall(fall, confidence) for fall in falls],
        "falls_by_chance": by_chance(len(mine.courses), len(mine.observations), confidence),
        "spread": {
            signal: {str(step): _number(value) for step, value in spread.items()}
            for signal, spread in ranges_over_seeds(trainings).items()
        },
        "of_seeds": [
            {"name": each.name, "signals": _signals(each, confidence), "loss": _losses(each, confidence)}
            for each in trainings[1:]
        ],
    }


def _losses(training: Followed, confidence: float) -> list[dict[str, Any]]:
    return _by_step(training.steps, training.losses, confidence)


def _signals(training: Followed, confidence: float) -> list[dict[str, Any]]:
    return [_of_signal(training, signal, confidence) for signal in training.courses]


def _of_signal(training: Followed, signal: str, confidence: float) -> dict[str, Any]:
    course, reach = training.courses[signal], training.reaches[signal]
    formed, strength = course.formed, _by_step(course.steps, course.strength, confidence)
    return {
        "signal": signal,
        "unit": training.unit(signal),
        "verdict": course.verdict,
        "formed": None if formed is None else {"step": course.steps[formed], "layer": course.layers[formed]},
        "peak": {"step": course.steps[course.peaked], "layer": course.where, **_told(course.peak, confidence)},
        "last": {"step": course.steps[-1], "layer": course.layers[-1], **_told(course.strength[-1], confidence)},
        "kept": _told(course.kept, confidence),
        "strength": [each | {"layer": layer} for each, layer in zip(strength, course.layers, strict=True)],
        "reach": {
            "untrained": _told(reach.untrained, confidence),
            "end": _told(reach.end[-1], confidence),
            "left": _told(reach.left, confidence),
            "thrown_away": reach.thrown_away,
            "share": _by_step(course.steps, reach.share, confidence),
        },
    }


def _of_fall(fall: Fall, confidence: float) -> dict[str, Any]:
    return {
        "signal": fall.signal, "before": fall.before, "after": fall.after, "layer": fall.layer,
        "change": _told(fall.change, confidence), "loss": _told(fall.loss, confidence), "spread": fall.spread,
        "noise": fall.noise, "repeated": fall.repeated, "seeds": fall.seeds,
    }  # fmt: skip


def _by_step(steps: Sequence[int], estimates: Sequence[Estimate], confidence: float) -> list[dict[str, Any]]:
    return [{"step": step, **_told(each, confidence)} for step, each in zip(steps, estimates, strict=True)]


def _told(estimate: Estimate, confidence: float) -> dict[str, float | None]:
    low, high = estimate.interval(confidence)
    return {"value": _number(estimate.value), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    """None is what JSON has for what is no number."""
    return float(value) if math.isfinite(value) else None
