"""What interleaved times say: percentiles, how many times as fast, with intervals over blocks, and a verdict in a word.

Calls of one block share what the machine was doing, so blocks are resampled, never calls. The original against itself says how
much the machine makes of nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from compress_explain.hardware.interleaved import COMPRESSED, CONTROL, ORIGINAL

Word = Literal["faster", "slower", "no difference", "inconclusive"]
NOTICEABLE = 0.05  # a smaller change of the time is none that anybody plans with
_CONTROL = 0.99  # confidence of the control's interval: at 90% one quiet machine in ten would be called noisy
_EFFECT = 0.25  # the share of the effect that the control may leave open
_RESAMPLES = 2000
_AT_ONCE = 4_000_000  # numbers drawn in memory at a time


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and the two-sided interval of it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PairedTimes:
    """Milliseconds of the original, the compressed model and the original again: ``(blocks, calls of a block)`` each."""

    original: np.ndarray = field(repr=False)
    compressed: np.ndarray = field(repr=False)
    again: np.ndarray = field(repr=False)
    confidence: float = 0.90
    seed: int = 0

    @classmethod
    def of(
        cls, blocks: Iterable[int], sides: Iterable[str], milliseconds: Iterable[float], confidence: float = 0.90
    ) -> PairedTimes:
        """Put the columns of a table of calls into order."""
        block, side, taken = np.asarray(list(blocks)), np.asarray(list(sides)), np.asarray(list(milliseconds))
        sorted_by_block = np.argsort(block, kind="stable")
        side, taken = side[sorted_by_block], taken[sorted_by_block].astype(float)
        count = len(np.unique(block))
        original, compressed, again = (
            taken[side == name].reshape(count, -1) for name in (ORIGINAL, COMPRESSED, CONTROL)
        )
        return cls(original=original, compressed=compressed, again=again, confidence=confidence)

    @property
    def blocks(self) -> int:
        return len(self.original)

    @property
    def calls(self) -> int:
        """Of either model."""
        return self.original.size

    @cached_property
    def speedup(self) -> Estimate:
        """How many times as fast the compressed model is: the median over blocks."""
        return self._ratio(self.compressed, self.confidence)

    @cached_property
    def control(self) -> Estimate:
        """The same of the original against itself, at 99%."""
        return self._ratio(self.again, _CONTROL)

    @property
    def doubt(self) -> str:
        """Why the times cannot carry a verdict; empty where they can.

        They cannot where the original differs from itself, or where it is not known to within the larger of 5% and a quarter
        of the effect that it does not.
        """
        noise = max(abs(np.log(self.control.low)), abs(np.log(self.control.high)))
        effect = abs(float(np.log(self.speedup.value)))
        if self.control.low <= 1 <= self.control.high and noise <= max(np.log1p(NOTICEABLE), _EFFECT * effect):
            return ""
        of = self.control
        return f"the machine was too noisy: the original against itself gave {of.value:.3f} times ({of.low:.3f} to {of.high:.3f})"

    @property
    def word(self) -> Word:
        """Faster or slower only where the interval lies beyond 1 and beyond what the original against itself gives."""
        if self.doubt:
            return "inconclusive"
        if self.speedup.low > max(1.0, self.control.high):
            return "faster"
        if self.speedup.high < min(1.0, self.control.low):
            return "slower"
        if max(self.speedup.high, 1 / self.speedup.low) <= 1 + NOTICEABLE:
            return "no difference"
        return "inconclusive"

    def percentile(self, q: float) -> tuple[Estimate, Estimate, Estimate]:
        """A percentile of the calls of the original, of the compressed model, and their difference, in milliseconds."""
        drawn_original, drawn_compressed = (self._percentiles(each, q) for each in (self.original, self.compressed))
        original, compressed = (float(np.percentile(each, q)) for each in (self.original, self.compressed))
        return (
            self._estimate(original, drawn_original, self.confidence),
            self._estimate(compressed, drawn_compressed, self.confidence),
            self._estimate(compressed - original, drawn_compressed - drawn_original, self.confidence),
        )

    def rates(self, batch: int) -> tuple[Estimate, Estimate, Estimate]:
        """Rows a second in median calls of ``batch`` rows: of the original, of the compressed model, and their difference."""
        drawn = [1e3 * batch / self._percentiles(each, 50) for each in (self.original, self.compressed)]
        original, compressed = (1e3 * batch / float(np.median(each)) for each in (self.original, self.compressed))
        return (
            self._estimate(original, drawn[0], self.confidence),
            self._estimate(compressed, drawn[1], self.confidence),
            self._estimate(compressed - original, drawn[1] - drawn[0], self.confidence),
        )

    def spread(self) -> tuple[float, float]:
        """The interquartile range of the original's and the compressed model's calls, milliseconds."""
        original, compressed = (
            np.subtract(*np.percentile(each, [75, 25])) for each in (self.original, self.compressed)
        )
        return float(original), float(compressed)

    def _ratio(self, other: np.ndarray, confidence: float) -> Estimate:
        ratios = self.original.mean(1) / other.mean(1)
        drawn = np.concatenate([np.median(ratios[rows], axis=1) for rows in self._drawn(1)])
        return self._estimate(float(np.median(ratios)), drawn, confidence)

    def _percentiles(self, times: np.ndarray, q: float) -> np.ndarray:
        """Of resampled blocks; the same blocks for both models, so that the difference is paired."""
        calls = times.shape[1]
        return np.concatenate(
            [np.percentile(times[rows].reshape(len(rows), -1), q, axis=1) for rows in self._drawn(calls)]
        )

    def _drawn(self, calls: int) -> Iterable[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        some = max(1, _AT_ONCE // (self.blocks * calls))
        for start in range(0, _RESAMPLES, some):
            yield rng.integers(0, self.blocks, (min(some, _RESAMPLES - start), self.blocks))

    def _estimate(self, value: float, drawn: np.ndarray, confidence: float) -> Estimate:
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
