"""What both models of a comparison take, as a table, and the scores of it."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.hardware.counted import activations, files_of, flops, parameters
from compress_explain.hardware.fresh_rounds import fresh_rounds
from compress_explain.hardware.repeated import counted_score, repeated_score
from compress_explain.progress import Advance

UNITS = MappingProxyType(
    {
        "bytes_on_disk": "bytes",
        "parameters": "parameters",
        "flops": "FLOPs a row",
        "activation_memory": "MiB",
        "peak_memory": "MiB",
    }
)
Line = dict[str, object]


def measure_footprint(contest: Contest, rounds: int, batch: int, advance: Advance) -> pd.DataFrame:
    """One line a figure and round: ``original`` and ``compressed``; why something is missing is in ``why``."""
    lines = [*_counted(contest, batch)]
    advance(len(contest.original.examples) // 2)
    if rounds:
        table, why = fresh_rounds(contest, rounds, batch)
        memory = table[table["figure"] == "memory"]
        lines += [
            _line("peak_memory", number, before, after)
            for number, before, after in zip(memory["round"], memory["original"], memory["compressed"], strict=True)
        ] or [_line("peak_memory", 0, None, None, why)]
    advance(len(contest.original.examples) - len(contest.original.examples) // 2)
    return pd.DataFrame(lines).astype({"original": float, "compressed": float})


def footprint_scores(measured: pd.DataFrame, confidence: float) -> list[Score]:
    """Of every figure that both models have."""
    found = []
    for metric, rounds in measured.dropna(subset=["original", "compressed"]).groupby("figure", sort=False):
        if metric == "peak_memory":
            found.append(repeated_score("peak_memory", rounds, unit="MiB", confidence=confidence))
        elif metric in UNITS:
            before, after = float(rounds["original"].iloc[0]), float(rounds["compressed"].iloc[0])
            found.append(counted_score(str(metric), before, after, unit=UNITS[str(metric)]))
    return found


def _counted(contest: Contest, batch: int) -> Iterator[Line]:
    files = [None if side.path is None else files_of(side.path) for side in contest.sides]
    modules = [side.module for side in contest.sides]
    figures: dict[str, list[float | None]] = {
        "bytes_on_disk": [None if each is None else float(each.runs) for each in files],
        "bytes_beside": [None if each is None else float(each.others) for each in files],
        "parameters": [None if module is None else float(parameters(module)) for module in modules],
        "flops": [flops(side, batch) for side in contest.sides],
        "activation_memory": [activations(side, batch) for side in contest.sides],
    }
    for figure, (before, after) in figures.items():
        missing = "no files are at hand" if figure.startswith("bytes") else "not at hand in torch"
        yield _line(figure, 0, before, after, missing)


def _line(figure: str, number: int, original: float | None, compressed: float | None, why: str = "") -> Line:
    missing = original is None or compressed is None
    return {
        "figure": figure, "round": number, "original": original, "compressed": compressed, "why": why if missing else "",
    }  # fmt: skip
