"""Where the time of both models goes, layer by layer and linear by linear."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.hardware.layers_timed import layer_scores, layers_timed
from compress_explain.progress import Advance


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """Milliseconds a call spends in each linear and in the rest of each layer, from the runtimes' profilers.

    ``batch`` rows of median length are read in ``calls`` calls a round, both models by turns in ``rounds``. A profiler slows small
    operations most, so that its figures never pass a gate; ``latency`` says how long calls take. ``confidence`` is two-sided.
    """

    batch: int = 1
    rounds: int = 5
    calls: int = 10
    threads: int = 1
    confidence: float = 0.90

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("rounds", 2), ("calls", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise InputError(f"layer_times: {name}", getattr(self, name), "too few", f"give at least {least}")

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("layer_times.linears", "layer_times.rest")

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame:
        return layers_timed(contest, self.rounds, self.batch, self.calls, self.threads, advance)

    def scores(self, measured: pd.DataFrame) -> list[Score]:
        return layer_scores(measured, self.confidence)
