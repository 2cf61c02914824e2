"""How much energy both models take for the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.hardware.energy_used import energy_scores, measure_energy, on_graphics
from compress_explain.hardware.meters import find_meter
from compress_explain.progress import Advance


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules for 1,000 rows of median length, by the best meter that this machine has.

    These are RAPL, perf, NVML where a GPU computes, and CodeCarbon's model where that is installed; what is modelled never carries a
    verdict. The score's unit names the method. ``blocks`` of four turns of ``seconds``; ``confidence`` is two-sided.
    """

    blocks: int = 6
    seconds: float = 0.5
    batch: int = 16
    confidence: float = 0.90
    seed: int = 0

    def __post_init__(self) -> None:
        if self.blocks < 2:
            raise InputError("energy: blocks", self.blocks, "no interval could be told", "give at least 2")
        if self.seconds <= 0 or self.batch < 1:
            raise InputError(
                "energy: seconds", self.seconds, "nothing would run", "give more than 0 and a row at least"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("energy",)

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame:
        meter, why = find_meter(graphics=on_graphics(contest))
        return measure_energy(
            contest, meter, why, blocks=self.blocks, seconds=self.seconds, batch=self.batch, seed=self.seed,
            advance=advance,
        )  # fmt: skip

    def scores(self, measured: pd.DataFrame) -> list[Score]:
        return energy_scores(measured, self.confidence)
