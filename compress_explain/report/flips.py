"""Flipped examples: rows that only one of the two models gets right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress_explain.predictions import Pairs
from compress_explain.report.charts import shortened
from compress_explain.report.judgement import Judgement

REDACTED = "redacted"
_LOST, _WON, _LETTERS = 20, 10, 400


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One row; each prediction with the probability that its model gives it."""

    row: int
    text: str
    label: str
    original: str
    original_probability: float
    compressed: str
    compressed_probability: float


@dataclass(frozen=True, kw_only=True)
class Flips:
    """All flips of one direction counted, the starkest shown."""

    total: int
    shown: tuple[Flip, ...]


@dataclass(frozen=True, kw_only=True)
class FlipSection:
    """Both directions, on the judged split."""

    rows: int
    redacted: bool
    lost: Flips
    won: Flips


def flipped(judgement: Judgement, texts: dict[str, tuple[str, ...]] | None, labels: dict[int, str]) -> FlipSection:
    """Rows where the models disagree on what is right, by how far the label's probability moved."""
    pairs = judgement.pairs
    shown = None if texts is None else texts.get(pairs.split)
    right, right_after = pairs.original_right, pairs.compressed_right
    return FlipSection(
        rows=len(pairs),
        redacted=shown is None,
        lost=_flips(pairs, right & ~right_after, _LOST, shown, labels),
        won=_flips(pairs, ~right & right_after, _WON, shown, labels),
    )


def _flips(pairs: Pairs, flags: np.ndarray, limit: int, texts: tuple[str, ...] | None, labels: dict[int, str]) -> Flips:
    rows = np.flatnonzero(flags)
    of_label = [
        side[rows, pairs.labels[rows]] for side in (pairs.original_probabilities, pairs.compressed_probabilities)
    ]
    order = rows[np.argsort(-np.abs(of_label[1] - of_label[0]), kind="stable")]
    return Flips(total=len(rows), shown=tuple(_flip(pairs, int(row), texts, labels) for row in order[:limit]))


def _flip(pairs: Pairs, row: int, texts: tuple[str, ...] | None, labels: dict[int, str]) -> Flip:
    original, compressed = pairs.original_probabilities[row], pairs.compressed_probabilities[row]
    return Flip(
        row=row,
        text=REDACTED if texts is None else shortened(texts[row], _LETTERS),
        label=_named(labels, int(pairs.labels[row])),
        original=_named(labels, int(original.argmax())),
        original_probability=float(original.max()),
        compressed=_named(labels, int(compressed.argmax())),
        compressed_probability=float(compressed.max()),
    )


def _named(labels: dict[int, str], index: int) -> str:
    return labels.get(index, str(index))
