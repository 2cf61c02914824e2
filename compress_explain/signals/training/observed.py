"""What observing a training leaves behind: one table of findings, a summary of what they come to, and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compress_explain.record.folder import write_json, write_text
from compress_explain.signals.findings import Finding, as_table
from compress_explain.signals.probing.resampling import Estimate
from compress_explain.signals.similarity.outlines import outlines_alike
from compress_explain.signals.training.falling import Fall, by_chance, falls_of, spread_of
from compress_explain.signals.training.forming import Course, course_of
from compress_explain.signals.training.observations import Kept, table_of, write_table
from compress_explain.signals.training.observing import CKA, LEFT_OUT, PROBE, Observation, Observing
from compress_explain.signals.training.reaching import Reach, reach_of

TABLE, SUMMARY, PAGE = "observed.parquet", "observed.json", "observed.html"
COURSE, SEEDS = "course", "seeds"
STRENGTH, CHANGE, REACH, SPREAD = "strength", "change", "reach", "spread"
CHECKPOINTS, TRAININGS = "cka_checkpoints", "cka_trainings"
_MAPPED = 24  # steps, of which it is told how alike any two are


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the training is called, and others of it with other seeds."""

    training: str
    seeds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Told:
    """All looks at one training, and what became of each signal."""

    kept: Kept
    observations: tuple[Observation, ...] = field(repr=False)
    courses: dict[str, Course] = field(repr=False)
    reaches: dict[str, Reach] = field(repr=False)

    @classmethod
    def of(cls, kept: Kept, confidence: float) -> _Told:
        observations = kept.all()
        depths = depths_of(observations[0])
        courses = {
            signal: course_of(signal, observations, depths, confidence) for signal in observations[0].above
        }  # in the order in which they were asked
        reaches = {signal: reach_of(signal, observations, confidence) for signal in courses}
        return cls(kept=kept, observations=observations, courses=courses, reaches=reaches)


def depths_of(observation: Observation) -> tuple[str, ...]:
    """The places that were looked at, from the first to the last."""
    return tuple(dict.fromkeys(each.layer for each in observation.findings if each.part == PROBE))


def write_observed(folder: Path, names: Names, observing: Observing) -> dict[str, Any]:
    """Write table, summary and page from the looks that lie in ``folder``; returns the summary."""
    from compress_explain.report.observed import render_observed

    confidence = observing.confidence
    told = [_Told.of(Kept(folder=folder, seed=seed), confidence) for seed in range(1 + len(names.seeds))]
    findings = [*_courses(told[0], confidence), *_spreads(told), *_alike(told, names)]
    over_steps = as_table([each for _, each in findings]).assign(step=[step for step, _ in findings], seed=0)
    table = pd.concat([*(table_of(each.kept) for each in told), over_steps], ignore_index=True)
    write_table(folder / TABLE, table)
    summary = _summary(told, names, observing)
    write_json(folder / SUMMARY, summary)
    write_text(folder / PAGE, render_observed(summary, table))
    return summary


def _courses(told: _Told, confidence: float) -> Iterator[tuple[int, Finding]]:
    """Each signal's strength at every step and the share that reaches the last layer, its change and that of the loss, by step."""
    n = told.observations[0].findings[0].n
    losses = [each.loss.at(0) for each in told.observations]
    last = depths_of(told.observations[0])[-1]
    for signal, course in told.courses.items():
        unit = _unit(told.observations[0], signal)
        for number, (step, strength, layer) in enumerate(
            zip(course.steps, course.strength, course.layers, strict=True)
        ):
            yield step, _finding(STRENGTH, strength, unit, n, confidence, signal, layer)
            if number:
                change = strength.minus(course.strength[number - 1])
                yield step, _finding(CHANGE, change, unit, n, confidence, signal, layer)
            yield step, _finding(REACH, told.reaches[signal].share[number], "share", n, confidence, signal, last)
    for number, step in enumerate(each.step for each in told.observations):
        if number:
            yield step, _finding(CHANGE, losses[number].minus(losses[number - 1]), "nats", n, confidence, "loss", "")


def _spreads(told: Sequence[_Told]) -> Iterator[tuple[int, Finding]]:
    """At each step that all seeds have, the range of each signal's strength and of the loss over them."""
    n = told[0].observations[0].findings[0].n
    for signal, spread in _ranges(told).items():
        unit = "nats" if signal == "loss" else _unit(told[0].observations[0], signal)
        for step, value in spread.items():
            note = f"range over {len(told)} seeds"
            yield (
                step,
                Finding(part=SEEDS, figure=SPREAD, value=value, unit=unit, n=n, signal=signal, note=note),
            )


def _alike(told: Sequence[_Told], names: Names) -> Iterator[tuple[int, Finding]]:
    """At the last depth: how alike any two steps are, and how alike the last steps of two trainings, which is a yardstick."""
    mine = told[0].observations
    places = np.linspace(0, len(mine) - 1, min(_MAPPED, len(mine))).round().astype(int)
    picked = [mine[place] for place in places]
    depth, n = depths_of(mine[0])[-1], len(mine[0].outline)
    table = outlines_alike([each.outline for each in picked])
    for one, row in zip(picked, table, strict=True):
        for other, value in zip(picked, row, strict=True):
            yield one.step, _likeness(CHECKPOINTS, value, n, depth, str(other.step))
    for name, another in zip(names.seeds, told[1:], strict=True):
        value = outlines_alike([mine[-1].outline, another.observations[-1].outline])[0, 1]
        yield mine[-1].step, _likeness(TRAININGS, value, n, depth, name)


def _likeness(figure: str, value: float, n: int, depth: str, other: str) -> Finding:
    return Finding(part=CKA, figure=figure, value=float(value), unit="CKA", n=n, layer=depth, other=other)


def _ranges(told: Sequence[_Told]) -> dict[str, Mapping[int, float]]:
    if len(told) < 2:
        return {}
    common = set.intersection(*({each.step for each in one.observations} for one in told))
    losses = [{each.step: each.loss.at(0).value for each in one.observations} for one in told]
    found: dict[str, Mapping[int, float]] = {
        "loss": {
            step: max(each[step] for each in losses) - min(each[step] for each in losses) for step in sorted(common)
        }
    }
    shared = [signal for signal in told[0].courses if all(signal in one.courses for one in told)]
    return found | {signal: spread_of([one.courses[signal] for one in told]) for signal in shared}


def _finding(figure: str, estimate: Estimate, unit: str, n: int, confidence: float, signal: str, layer: str) -> Finding:
    low, high = estimate.interval(confidence)
    return Finding(
        part=COURSE, figure=figure, value=estimate.value, low=low, high=high, unit=unit, n=n, signal=signal, layer=layer
    )


def _unit(observation: Observation, signal: str) -> str:
    return next(each.unit for each in observation.findings if each.signal == signal)


def _summary(told: Sequence[_Told], names: Names, observing: Observing) -> dict[str, Any]:
    mine, confidence = told[0], observing.confidence
    falls = [
        fall
        for signal, course in mine.courses.items()
        for fall in falls_of(
            course, mine.observations, confidence, [one.courses[signal] for one in told[1:] if signal in one.courses]
        )
    ]
    return {
        "training": names.training,
        "seeds": list(names.seeds),
        "settings": asdict(observing),
        "decisions": mine.observations[0].findings[0].n,
        "depths": list(depths_of(mine.observations[0])),
        "steps": [each.step for each in mine.observations],
        "loss": [{"step": each.step, **_told(each.loss.at(0), confidence)} for each in mine.observations],
        "signals": _of_signals(mine, confidence),
        "left_out": {each.signal: each.note for each in mine.observations[0].findings if each.part == LEFT_OUT},
        "falls": [_of_fall(fall, confidence) for fall in falls],
        "falls_by_chance": by_chance(len(mine.courses), len(mine.observations), confidence),
        "spread": {signal: {str(step): _number(value) for step, value in spread.items()} for signal, spread in _ranges(told).items()},
        "of_seeds": [
            {"name": name, "signals": _of_signals(one, confidence),
             "loss": [{"step": each.step, **_told(each.loss.at(0), confidence)} for each in one.observations]}
            for name, one in zip(names.seeds, told[1:], strict=True)
        ],
    }  # fmt: skip


def _of_signals(told: _Told, confidence: float) -> list[dict[str, Any]]:
    return [
        _of_signal(course, told.observations[0], confidence)
        | {"reach": _of_reach(told.reaches[signal], course.steps, confidence)}
        for signal, course in told.courses.items()
    ]


def _of_reach(reach: Reach, steps: Sequence[int], confidence: float) -> dict[str, Any]:
    return {
        "untrained": _told(reach.untrained, confidence), "end": _told(reach.end[-1], confidence), "left": _told(reach.left, confidence),
        "thrown_away": reach.thrown_away,
        "share": [{"step": step, **_told(each, confidence)} for step, each in zip(steps, reach.share, strict=True)],
    }  # fmt: skip


def _of_signal(course: Course, observation: Observation, confidence: float) -> dict[str, Any]:
    formed = course.formed
    return {
        "signal": course.signal,
        "unit": _unit(observation, course.signal),
        "verdict": course.verdict,
        "formed": None if formed is None else {"step": course.steps[formed], "layer": course.layers[formed]},
        "peak": {"step": course.steps[course.peaked], "layer": course.where, **_told(course.peak, confidence)},
        "last": {"step": course.steps[-1], "layer": course.layers[-1], **_told(course.strength[-1], confidence)},
        "kept": _told(course.kept, confidence),
        "strength": [
            {"step": step, "layer": layer, **_told(each, confidence)}
            for step, layer, each in zip(course.steps, course.layers, course.strength, strict=True)
        ],
    }


def _of_fall(fall: Fall, confidence: float) -> dict[str, Any]:
    return {
        "signal": fall.signal, "before": fall.before, "after": fall.after, "layer": fall.layer,
        "change": _told(fall.change, confidence), "loss": _told(fall.loss, confidence), "spread": fall.spread,
        "noise": fall.noise, "repeated": fall.repeated, "seeds": fall.seeds,
    }  # fmt: skip


def _told(estimate: Estimate, confidence: float) -> dict[str, float | None]:
    low, high = estimate.interval(confidence)
    return {"value": _number(estimate.value), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    """None is what JSON has for what is no number."""
    return float(value) if math.isfinite(value) else None
