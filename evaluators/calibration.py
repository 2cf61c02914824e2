"""Is the compressed model still right as often as it is sure?"""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.comparison.calibration_scores import calibration_scores
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.model.tasks import CALIBRATION


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of both models over all rows of a split: debiased and other errors, temperature, Brier's parts.

    ``ece`` is debiased (Kumar et al. 2019) and may be negative. ``temperature`` is that of the least NLL, and ``nll_recalibrated`` what is left (nats) after each model
    got its own, fitted on the other half of the rows. ``bins`` hold equal shares of the rows. ``confidence`` is two-sided.
    """

    confidence: float = 0.90
    bins: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= 1000:
            raise InputError("calibration: bins", self.bins, "not between 2 and 1000", "try bins: 15")
        if not 0 < self.confidence < 1:
            raise InputError("calibration: confidence", self.confidence, "not between 0 and 1", "try confidence: 0.9")

    @property
    def metrics(self) -> tuple[str, ...]:
        return CALIBRATION

    def evaluate(self, pairs: Pairs) -> list[Score]:
        return calibration_scores(pairs, self.confidence, self.bins, self.seed)
