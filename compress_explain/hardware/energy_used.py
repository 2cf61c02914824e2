"""The energy that both models of a comparison use, by turns, as a table, and the score of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd
import torch

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.scores import Score
from compress_explain.hardware.counted import median_inputs
from compress_explain.hardware.interleaved import COMPRESSED, ORIGINAL, orders
from compress_explain.hardware.meters import MODELLED, Meter
from compress_explain.hardware.repeated import repeated_score
from compress_explain.progress import Advance

_COLUMNS = ["block", "position", "side", "joules", "rows", "method", "why"]


def measure_energy(
    contest: Contest,
    meter: Meter | None,
    why: str,
    *,
    blocks: int,
    seconds: float,
    batch: int,
    seed: int,
    advance: Advance,
) -> pd.DataFrame:
    """One line a turn of ``seconds``, in blocks of ABBA or BAAB; without a meter one line that says ``why``."""
    if meter is None:
        return pd.DataFrame([{"method": "none", "why": why}], columns=_COLUMNS)
    calls = {
        ORIGINAL: _call(contest.original, batch),
        COMPRESSED: _call(contest.compressed, batch),
    }
    lines = []
    for block, order in enumerate(orders(list(calls), blocks, seed)):
        for position, side in enumerate(order):
            turn = _Turn(calls[side], seconds)
            joules = meter.joules(turn)
            lines.append((block, position, side, joules, turn.calls * batch, meter.method, why))
        advance(len(contest.original.examples) // blocks)
    return pd.DataFrame(lines, columns=_COLUMNS)


def energy_scores(measured: pd.DataFrame, confidence: float) -> list[Score]:
    """Joules for 1,000 rows, bounded block by block; none where nothing could be read."""
    method = str(measured["method"].iloc[0])
    if method == "none":
        return []
    sums = measured.groupby(["block", "side"])[["joules", "rows"]].sum()
    rounds = (1000 * sums["joules"] / sums["rows"]).unstack("side")
    doubt = "modelled by CodeCarbon, not measured" if method == MODELLED else ""
    return [repeated_score("energy", rounds, unit=f"J for 1,000 rows, {method}", confidence=confidence, doubt=doubt)]


def on_graphics(contest: Contest) -> bool:
    """Whether a GPU computes the models."""
    modules = [side.module for side in contest.sides if side.module is not None]
    return any(parameter.device.type == "cuda" for module in modules for parameter in module.parameters())


class _Turn:
    """Calls as often as fits into some seconds, at least once."""

    def __init__(self, call: Callable[[], object], seconds: float) -> None:
        self.call, self.seconds, self.calls = call, seconds, 0

    def __call__(self) -> None:
        end = time.perf_counter() + self.seconds
        while self.calls == 0 or time.perf_counter() < end:
            self.call()
            self.calls += 1


def _call(side: Side, batch: int) -> Callable[[], object]:
    inputs: dict[str, torch.Tensor] = median_inputs(side.examples, batch)
    side.forward(inputs)  # warm
    return lambda: side.forward(inputs)
