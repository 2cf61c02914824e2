"""How long the deployed artifact takes beside the original, in turn with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.hardware.interleaved import Patience
from compress_explain.hardware.timed import Sizes, latency_scores, point_metrics, timed
from compress_explain.progress import Advance


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles of the time of one call (ms), how many times as fast (times) and rows a second, at every size of a grid.

    Every batch of ``batches`` rows is timed at every number of ``tokens``; without any, at the split's median length and its 95th
    percentile, which are called ``median`` and ``p95``. Models that do not read tokens are timed at one size. Metrics of a size are
    ``latency.1xmedian.p50``; ``latency.p50`` is that of the first size, ``throughput`` that of the largest batch. ``blocks``
    of six calls are measured, fewer where they take more than ``seconds`` a size; a 99th percentile is told of 1,000
    calls or more, which are 500 blocks. Up to ``warm_up`` calls come before. ``confidence`` is two-sided.
    """

    batches: Sequence[int] = (1, 16)
    tokens: Sequence[int] | None = None
    blocks: int = 60
    seconds: float = 30.0
    threads: int = 1
    warm_up: int = 50
    confidence: float = 0.90
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", tuple(self.batches))  # a list in YAML
        object.__setattr__(self, "tokens", None if self.tokens is None else tuple(self.tokens))
        for name, sizes in (("batches", self.batches), ("tokens", self.tokens), ("threads", (self.threads,))):
            if sizes is not None and (not sizes or min(sizes) < 1):
                raise InputError(f"latency: {name}", sizes, "nothing would be measured", "give numbers of at least 1")
        if not 0 < self.confidence < 1:
            raise InputError("latency: confidence", self.confidence, "must lie in (0, 1)", "write 0.90")

    @property
    def metrics(self) -> tuple[str, ...]:
        return point_metrics(self._sizes)

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame:
        patience = Patience(blocks=self.blocks, seconds=self.seconds, most=self.warm_up)
        return timed(contest, self._sizes, patience, self.threads, self.seed, advance)

    def scores(self, measured: pd.DataFrame) -> list[Score]:
        return latency_scores(measured, self.confidence)

    @property
    def _sizes(self) -> Sizes:
        return Sizes(batches=tuple(self.batches), tokens=None if self.tokens is None else tuple(self.tokens))
