"""How much room both models take: on disk, in memory, in computing."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.hardware.footprints import UNITS, footprint_scores, measure_footprint
from compress_explain.progress import Advance


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on disk of what runs, parameters, FLOPs a row, MiB of activations, and MiB that a process takes at its peak.

    FLOPs, activations and parameters are those of the models in torch. Counted figures have intervals without width; the peak
    of memory is measured ``rounds`` times in fresh processes that answer on ``batch`` rows of median length, beyond what the runtime
    alone takes; with 0 rounds it is not. ``confidence`` is two-sided.
    """

    rounds: int = 3
    batch: int = 16
    confidence: float = 0.90

    def __post_init__(self) -> None:
        if self.rounds == 1 or self.rounds < 0:
            raise InputError("footprint: rounds", self.rounds, "no interval could be told", "give 0, or 2 and more")
        if self.batch < 1:
            raise InputError("footprint: batch", self.batch, "nothing would run", "give at least 1")

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(UNITS)

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame:
        return measure_footprint(contest, self.rounds, self.batch, advance)

    def scores(self, measured: pd.DataFrame) -> list[Score]:
        return footprint_scores(measured, self.confidence)
