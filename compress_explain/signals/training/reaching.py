"""How much of a signal reaches the last layer while a model trains: of what any layer shows, and of what random weights hand on.

A signal can be plain in the embedding and gone where the head reads. Nothing that is told of the best layer shows that, nor does
what is told above the control, which holds it too: a model that learns to throw away what it was given shows less than one that
learned nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from compress_explain.signals.probing.resampling import Estimate
from compress_explain.signals.training.observing import Observation

WIDEST = 1.0  # of the interval of a share that is told


@dataclass(frozen=True, kw_only=True)
class Reach:
    """One signal at the last layer, step by step: what it shows there above chance (``end``), and which ``share`` that is of what the
    layer shows that shows most, chosen on other rows; NaN where that cannot be told to within :data:`WIDEST`. ``untrained`` is what random
    weights hand on.
    """

    end: tuple[Estimate, ...] = field(repr=False)
    share: tuple[Estimate, ...] = field(repr=False)
    untrained: Estimate
    left: Estimate  # of that, at the last step
    thrown_away: bool  # surely less is left than random weights hand on


def reach_of(signal: str, observations: Sequence[Observation], confidence: float) -> Reach:
    """Over looks in the order of their steps."""
    held = [each.held[signal] for each in observations]
    last = held[0].values.shape[1] - 1
    end = tuple(each.at(last) for each in held)
    most = [each.at(each.best) for each in held]
    untrained = end[-1].minus(observations[-1].above[signal].at(last))
    lost = end[-1].minus(untrained)
    shows = untrained.interval(confidence)[0] > 0
    return Reach(
        end=end,
        share=tuple(_share(one, whole, confidence) for one, whole in zip(end, most, strict=True)),
        untrained=untrained,
        left=end[-1].share_of(untrained) if shows else _nothing(untrained),
        thrown_away=shows and lost.interval(confidence)[1] < 0,
    )


def _share(part: Estimate, whole: Estimate, confidence: float) -> Estimate:
    if whole.interval(confidence)[0] <= 0:
        return _nothing(whole)
    told = part.share_of(whole)
    low, high = told.interval(confidence)
    return told if high - low < WIDEST else _nothing(whole)


def _nothing(like: Estimate) -> Estimate:
    return Estimate(value=math.nan, draws=np.full(len(like.draws), math.nan))
