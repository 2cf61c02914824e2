"""Which shape of a student would carry the signals that the original shows."""

from __future__ import annotations

import math

from compress_explain.signals.advised import Advice
from compress_explain.signals.findings import Finding
from compress_explain.signals.found import ORIGINAL, Found, SignalFound, has_interval
from compress_explain.signals.words import figures, spoken_signal

_NEARLY = 0.95  # of a signal's maximum


def student(found: Found) -> Advice | None:
    """The smallest depth by which every signal is nearly at its maximum, if that is not the last one; the stream's spread there."""
    reached = {signal.name: told for signal in found.signals if (told := _reached(signal, found.depths)) is not None}
    if not reached:
        return None
    deepest = max(reached.values(), key=lambda pair: found.depths.index(pair[0].layer))[0].layer
    layers = found.depths.index(deepest)
    if layers in (0, len(found.depths) - 1):
        return None
    width, words = _width(found, layers)
    return Advice(
        kind="student",
        text=f"A student of {layers} layers could carry these signals: by {deepest} each has {_NEARLY:.0%} of the most that the "
        f"original ever shows of it.{width}",
        evidence=tuple(
            f"{spoken_signal(name)}: {figures(at)} above the control at {at.layer}, {figures(most)} at most, at {most.layer}"
            for name, (at, most) in reached.items()
        )
        + words,
    )


def _reached(signal: SignalFound, depths: tuple[str, ...]) -> tuple[Finding, Finding] | None:
    """The first depth that is nearly at the maximum, and the maximum; None where the original surely shows nothing."""
    shown = signal.curve(ORIGINAL, "selectivity")
    told = [shown[depth] for depth in depths if depth in shown and has_interval(shown[depth])]
    most = max(told, key=lambda each: each.value, default=None)
    if most is None or most.low <= 0:
        return None
    at = next(each for each in told if each.low > 0 and each.value >= _NEARLY * most.value)
    return at, most


def _width(found: Found, layers: int) -> tuple[str, tuple[str, ...]]:
    ranks = {each.layer: each for each in found.of("flow", "effective_rank", model=ORIGINAL) if has_interval(each)}
    told = [ranks[depth] for depth in found.depths[: layers + 1] if depth in ranks]
    if not told:
        return "", ()
    widest = max(told, key=lambda each: each.value)
    return (
        f" Up to there its stream spreads over about {math.ceil(widest.high)} directions: hardly narrower than that.",
        (f"effective rank at {widest.layer}: {figures(widest, 1)}",),
    )
