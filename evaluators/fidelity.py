"""Does the compressed model still say what the original says, and as surely?"""

from __future__ import annotations

from dataclasses import dataclass

from compress_explain.comparison.fidelity import fidelity_scores
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.model.tasks import CONFIDENCE, FIDELITY


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Agreement of both models over all rows of a split: churn, probability loyalty, JS and KL (nats), and how sure each is when right or wrong.

    Churn is the share that is decided differently; KL and JS are means over decisions. ``confidence`` is two-sided.
    """

    confidence: float = 0.90
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InputError("fidelity: confidence", self.confidence, "not between 0 and 1", "try confidence: 0.9")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*FIDELITY, *CONFIDENCE)

    def evaluate(self, pairs: Pairs) -> list[Score]:
        return fidelity_scores(pairs, self.confidence, self.seed)
