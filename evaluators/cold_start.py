"""How long a process that has just been started takes until its first answer."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.hardware.fresh_rounds import fresh_rounds
from compress_explain.hardware.repeated import repeated_score
from compress_explain.progress import Advance

_PARTS = ("imported", "loaded", "answered")


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Seconds from the start of a process to the first answer on one row, and of these the load and the first answer alone.

    Both models are started ``rounds`` times, by turns; files lie in the system's cache, as a rule. ``confidence`` is two-sided.
    """

    rounds: int = 3
    confidence: float = 0.90

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise InputError("cold_start: rounds", self.rounds, "no interval could be told", "give at least 2")

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("cold_start", "cold_start.load", "cold_start.first_answer")

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame:
        table, why = fresh_rounds(contest, self.rounds, batch=1, calls=1)
        advance(len(contest.original.examples))
        return table.assign(why=why)

    def scores(self, measured: pd.DataFrame) -> list[Score]:
        wide = measured.pivot(index="round", columns="figure", values=["original", "compressed"])
        if wide.empty:
            return []
        named = {"cold_start": _PARTS, "cold_start.load": ("loaded",), "cold_start.first_answer": ("answered",)}
        return [
            repeated_score(
                metric,
                pd.DataFrame({side: sum(wide[side][part] for part in parts) for side in ("original", "compressed")}),
                unit="s",
                confidence=self.confidence,
            )
            for metric, parts in named.items()
        ]
