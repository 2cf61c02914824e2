"""Scores told of the table of findings alone, so that gates on signals can be judged again without the models."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pandas as pd

from compress_explain.comparison.scores import Score
from compress_explain.data.examples import ALL
from compress_explain.signals.findings import CHOSEN

CKA_SCORE = "signals.cka"


def retention_of(signal: str) -> str:
    """The metric of how much of a signal is retained.

    >>> retention_of("attribute.negation")
    'signals.attribute.negation.retention'
    """
    return f"signals.{signal}.retention"


def above_chance_of(signal: str) -> str:
    """The metric of how much of what can be read off is left, learned or not.

    >>> above_chance_of("task")
    'signals.task.above_chance'
    """
    return f"signals.{signal}.above_chance"


def signal_of(metric: str) -> str | None:
    """The signal that a metric is about; None of any other metric.

    >>> signal_of("signals.attribute.negation.retention"), signal_of("signals.cka")
    ('attribute.negation', None)
    """
    told = re.fullmatch(r"signals\.(.+)\.(retention|above_chance)", metric)
    return told and told[1]


def scores_told(measured: pd.DataFrame, confidence: float) -> list[Score]:
    """The share of each signal that is retained, at the layer that was chosen on other rows; and how alike both end.

    A figure with a note carries no verdict: the note is its doubt.
    """
    return [*_retained(measured, confidence), *_alike(measured, confidence)]


def _retained(measured: pd.DataFrame, confidence: float) -> Iterator[Score]:
    rows = measured[(measured["part"] == "retention") & (measured["other"] == CHOSEN)]
    for row in rows.to_dict("records"):
        metric = (retention_of if row["figure"] == "retained" else above_chance_of)(row["signal"])
        yield _score(metric, row, confidence, str(row["note"]))


def _alike(measured: pd.DataFrame, confidence: float) -> Iterator[Score]:
    """At the last depth of the original."""
    rows = measured[(measured["part"] == "cka") & (measured["model"] == "") & (measured["layer"] == measured["other"])]
    for row in rows.tail(1).to_dict("records"):
        yield _score(CKA_SCORE, row, confidence, str(row["note"]))


def _score(metric: str, row: dict[str, object], confidence: float, doubt: str) -> Score:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))  # type: ignore[arg-type]
    if not doubt and any(math.isnan(each) for each in (value, low, high)):
        doubt = "too few rows gave a figure"
    return Score(
        metric=metric, slice=ALL, original=1.0, compressed=value, difference=value - 1, low=low - 1, high=high - 1,
        compressed_low=low, compressed_high=high, n=int(row["n"]), unit=str(row["unit"]), direction="higher",  # type: ignore[call-overload]
        confidence=confidence, doubt=doubt,
    )  # fmt: skip
