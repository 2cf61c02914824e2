"""The same figures for every declared slice: whom does the compression cost?"""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.comparison.gaps import ACCURACY_GAP, accuracy_gaps
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import METRIC_NAMES, Score, metrics_told, score
from compress_explain.data.examples import ALL


@dataclass(frozen=True, kw_only=True)
class Slices:
    """What can be told of the task, as accuracy, macro-F1, NLL (nats), Brier and flips, on each declared slice that has rows.

    Of every column whose values are slices also ``accuracy_gap``, between its best group and its worst, on the slice that is named
    after all of them, as ``group=*``. ``confidence`` is two-sided; 0.90 makes a non-inferiority gate a one-sided test at 5%.
    """

    confidence: float = 0.90
    seed: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*METRIC_NAMES, ACCURACY_GAP)

    def evaluate(self, pairs: Pairs) -> list[Score]:
        scores = [
            score(pairs, metric, name, self.confidence, self.seed)
            for name, rows in pairs.slices.items()
            if name != ALL and rows.any()
            for metric in metrics_told(pairs)
        ]
        return scores + accuracy_gaps(pairs, self.confidence, self.seed)
