"""The same figures for every declared slice: whom does the compression cost?"""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.comparison.gaps import ACCURACY_GAP, accuracy_gaps
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import METRIC_NAMES, Score, class_scores, score, sliced_metrics
from compress_explain.data.examples import ALL
from compress_explain.model.tasks import ONE_CLASS


@dataclass(frozen=True, kw_only=True)
class Slices:
    """What can be told of the task, as accuracy, macro-F1, NLL (nats), Brier and flips, on each declared slice that has rows.

    Of a slice that is all of one label, as ``label=positive``, also precision, recall and F1 of that class; of every column
    whose values are slices also ``accuracy_gap``, between its best group and its worst, on the slice that is named after all of them,
    as ``group=*``. ``confidence`` is two-sided; 0.90 makes a non-inferiority gate a one-sided test at 5%.
    """

    confidence: float = 0.90
    seed: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*METRIC_NAMES, *ONE_CLASS, ACCURACY_GAP)

    def evaluate(self, pairs: Pairs) -> list[Score]:
        names = [name for name, rows in pairs.slices.items() if name != ALL and rows.any()]
        scores = [each for name in names for each in self._of(pairs, name)]
        return scores + accuracy_gaps(pairs, self.confidence, self.seed)

    def _of(self, pairs: Pairs, name: str) -> list[Score]:
        told = [score(pairs, metric, name, self.confidence, self.seed) for metric in sliced_metrics(pairs)]
        return told + class_scores(pairs, name, self.confidence, self.seed)
