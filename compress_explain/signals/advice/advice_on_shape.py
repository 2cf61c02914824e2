"""Which shape of a student would carry the signals that the original shows."""

from __future__ import annotations

import math

from compress_explain.signals.advice.advised import Advice
from compress_explain.signals.findings import ORIGINAL, Finding
from compress_explain.signals.found import Found, SignalFound, has_interval
from compress_explain.signals.words import figures, spoken_signal

_NEARLY = 0.95  # of a signal's maximum


def student(found: Found) -> Advice | None:
    """The smallest depth by which every signal is surely near its maximum, if that is not the last one; the stream's spread there.

    Signals that are there, but at no depth surely near their own maximum, are named: of them it cannot be told.
    """
    most = {signal.name: told for signal in found.signals if (told := _most(signal)) is not None}
    near = {signal.name: _near(signal, most[signal.name]) for signal in found.signals if signal.name in most}
    reached = {name: (at, most[name]) for name, at in near.items() if at is not None}
    if not reached:
        return None
    deepest = max(reached.values(), key=lambda pair: found.depths.index(pair[0].layer))[0].layer
    layers = found.depths.index(deepest)
    if layers in (0, len(found.depths) - 1):
        return None
    width, words = _width(found, layers)
    open_ones = ", ".join(spoken_signal(name) for name, at in near.items() if at is None)
    untold = f" Of {open_ones} that cannot be told: the intervals are too wide." if open_ones else ""
    return Advice(
        kind="student",
        text=f"A student of {layers} layers could carry these signals: by {deepest} each surely has {_NEARLY:.0%} of the most that "
        f"the original ever shows of it.{untold}{width}",
        evidence=tuple(
            f"{spoken_signal(name)}: {figures(at)} at {at.layer}, {figures(highest)} at most, at {highest.layer}"
            for name, (at, highest) in reached.items()
        )
        + words,
    )


def _most(signal: SignalFound) -> Finding | None:
    """The most that the original shows of it; None where it surely shows nothing that controls do not."""
    told = _curve(signal, signal.figure)
    above = [each for each in _curve(signal, "selectivity") if each.low > 0]
    return max(told, key=lambda each: each.value, default=None) if above else None


def _near(signal: SignalFound, most: Finding) -> Finding | None:
    """The first depth whose whole interval is near the maximum, counted from chance."""
    enough = signal.chance + _NEARLY * (most.value - signal.chance)
    return next((each for each in _curve(signal, signal.figure) if each.low >= enough), None)


def _curve(signal: SignalFound, figure: str) -> list[Finding]:
    shown = signal.curve(ORIGINAL, figure)
    return [shown[depth] for depth in signal.depths if depth in shown and has_interval(shown[depth])]


def _width(found: Found, layers: int) -> tuple[str, tuple[str, ...]]:
    ranks = {each.layer: each for each in found.of("flow", "effective_rank", model=ORIGINAL) if has_interval(each)}
    told = [ranks[depth] for depth in found.depths[: layers + 1] if depth in ranks]
    if not told:
        return "", ()
    widest = max(told, key=lambda each: each.value)
    return (
        f" Up to there its stream spreads over at least {math.ceil(widest.low)} directions: hardly narrower than that.",
        (f"effective rank at {widest.layer}: {figures(widest, 1)}",),
    )
