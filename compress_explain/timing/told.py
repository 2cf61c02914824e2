"""What timed blocks tell: percentiles, differences and ratios with intervals over blocks, and which is faster.

Calls within a block are not independent (a neighbour's job slows all of them), so that intervals come from drawing
whole blocks with replacement, each with both sides in it (the cluster bootstrap, Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Answer = Literal["faster", "slower", "no difference", "inconclusive"]
Blockwise = np.ndarray  # (blocks, calls), milliseconds

SURE = 0.99  # of the control's interval: a quiet machine is doubted once in a hundred times
LEAST = (
    0.05  # the least difference worth a word, as a share; a control that cannot tell that apart cannot tell anything
)
_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate between two bounds."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """How far it reaches from 1, as a share: of a ratio that ought to be 1, the machine's noise."""
        return math.expm1(max(abs(math.log(self.low)), abs(math.log(self.high))))


def percentile(times: Blockwise, share: float, confidence: float, seed: int = 0) -> Interval:
    """A percentile of all calls, milliseconds."""
    found = np.quantile(_drawn(times, seed), share, axis=1)
    return _interval(float(np.quantile(times, share)), found, confidence)


def difference(original: Blockwise, compressed: Blockwise, share: float, confidence: float, seed: int = 0) -> Interval:
    """Of a percentile, compressed minus original, the same blocks drawn of both; milliseconds."""
    found = [np.quantile(_drawn(times, seed), share, axis=1) for times in (original, compressed)]
    value = float(np.quantile(compressed, share) - np.quantile(original, share))
    return _interval(value, found[1] - found[0], confidence)


def speedup(original: Blockwise, compressed: Blockwise, confidence: float, seed: int = 0) -> Interval:
    """How many times as long the original takes: the median over blocks of the ratio of both medians within a block."""
    logs = np.log(np.median(original, 1)) - np.log(np.median(compressed, 1))
    drawn = np.median(logs[_rows(len(logs), seed)], axis=1)
    interval = _interval(float(np.median(logs)), drawn, confidence)
    return Interval(value=math.exp(interval.value), low=math.exp(interval.low), high=math.exp(interval.high))


def unpaired_speedup(original: Blockwise, compressed: Blockwise, confidence: float, seed: int = 0) -> Interval:
    """The same of blocks that were timed apart: the drift between both times is in no interval."""
    sides = [np.log(np.median(times, 1)) for times in (original, compressed)]
    drawn = [np.median(logs[_rows(len(logs), seed + place)], axis=1) for place, logs in enumerate(sides)]
    interval = _interval(float(np.median(sides[0]) - np.median(sides[1])), drawn[0] - drawn[1], confidence)
    return Interval(value=math.exp(interval.value), low=math.exp(interval.low), high=math.exp(interval.high))


def doubt(control: Interval) -> str:
    """Why times of this machine cannot carry a verdict, in words; empty where they can.

    >>> doubt(Interval(value=1.001, low=0.99, high=1.01))
    ''
    >>> doubt(Interval(value=1.08, low=1.02, high=1.14))
    'the machine was too noisy: the original against itself gave 1.080 times (1.020 to 1.140)'
    """
    if control.low <= 1 <= control.high and control.spread <= LEAST:
        return ""
    ratio = f"{control.value:.3f} times ({control.low:.3f} to {control.high:.3f})"
    return f"the machine was too noisy: the original against itself gave {ratio}"


def answer(ratio: Interval, control: Interval) -> Answer:
    """Which is faster: only what lies beyond all that the original differs from itself by counts.

    >>> quiet = Interval(value=1, low=0.99, high=1.01)
    >>> answer(Interval(value=1.5, low=1.4, high=1.6), quiet), answer(Interval(value=1.0, low=0.97, high=1.02), quiet)
    ('faster', 'no difference')
    >>> answer(Interval(value=0.9, low=0.88, high=0.92), quiet), answer(Interval(value=1.05, low=0.99, high=1.1), quiet)
    ('slower', 'inconclusive')
    """
    if doubt(control):
        return "inconclusive"
    beyond = 1 + control.spread
    if ratio.low > beyond:
        return "faster"
    if ratio.high < 1 / beyond:
        return "slower"
    return "no difference" if ratio.spread <= LEAST else "inconclusive"


def by_block(block: np.ndarray, milliseconds: np.ndarray) -> Blockwise:
    """The calls of one runner, one line a block; every block has as many."""
    order = np.argsort(block, kind="stable")
    return np.asarray(milliseconds, dtype=np.float64)[order].reshape(len(np.unique(block)), -1)


def facts(times: Mapping[str, Blockwise], confidence: float, seed: int = 0) -> dict[str, dict[str, float]]:
    """Median, 95th percentile and interval of every runner, as plain values in milliseconds."""
    told = {}
    for name, values in times.items():
        middle, late = (percentile(values, share, confidence, seed) for share in (0.5, 0.95))
        told[name] = {"median": middle.value, "low": middle.low, "high": middle.high, "p95": late.value}
    return told


def _rows(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n, (_RESAMPLES, n))


def _drawn(times: Blockwise, seed: int) -> np.ndarray:
    """``(resamples, calls)``: every call of the blocks drawn."""
    return times[_rows(len(times), seed)].reshape(_RESAMPLES, -1)


def _interval(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
