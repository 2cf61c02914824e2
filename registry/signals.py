"""What both models still know, as curves over the depths of the original."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from compress_explain.record.outcome import Run
from compress_explain.report.judgement import final_judgement
from compress_explain.signals.findings import COMPRESSED, ORIGINAL
from compress_explain.signals.found import Found

from .names import Point, slugs


def signal_curves(run: Run) -> Iterator[Point]:
    """Of the judgement that the run's state rests on; nothing where its signals were not measured."""
    measured = final_judgement(run).measured("signals")
    if measured is not None:
        yield from curves_told(measured)


def curves_told(measured: pd.DataFrame) -> Iterator[Point]:
    """For each signal what a probe shows in both models, and the share that is retained, above the control and above chance alone
    (step = depth, 0 is the embedding).
    """
    found = Found(table=measured)
    names = slugs(signal.name for signal in found.signals)
    for signal in found.signals:
        told = {model: signal.curve(model) for model in (ORIGINAL, COMPRESSED)} | {
            "retained": signal.retained_by_depth(), "retained_above_chance": signal.retained_by_depth(above_chance=True),
        }  # fmt: skip
        for which, curve in told.items():
            for step, depth in enumerate(found.depths):
                if depth in curve and math.isfinite(curve[depth].value):
                    yield Point(key=f"signals/{names[signal.name]}/{which}", value=curve[depth].value, step=step)
