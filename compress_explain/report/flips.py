"""Flipped examples: rows that only one of the two models gets right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress_explain.comparison.predictions import Pairs
from compress_explain.model.tasks import FEATURE_EXTRACTION
from compress_explain.report.charts import shortened
from compress_explain.report.judgement import Judgement

REDACTED = "redacted"
_LOST, _WON, _LETTERS = 20, 10, 400
_WORDS = 8  # shown on either side of the one that is meant


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One answer; each prediction with the probability that its model gives it, where that was kept."""

    row: int
    text: str
    label: str
    original: str
    original_probability: float | None
    compressed: str
    compressed_probability: float | None


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
    """Answers that only one of the models gets right, by how far the label's probability moved."""
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
        side[rows, pairs.answers[rows]] for side in (pairs.original_probabilities, pairs.compressed_probabilities)
    ]
    order = rows[np.argsort(-np.abs(of_label[1] - of_label[0]), kind="stable")]
    return Flips(total=len(rows), shown=tuple(_flip(pairs, int(row), texts, labels) for row in order[:limit]))


def _flip(pairs: Pairs, row: int, texts: tuple[str, ...] | None, labels: dict[int, str]) -> Flip:
    original, compressed = int(pairs.original_guesses[row]), int(pairs.compressed_guesses[row])
    number = row if pairs.rows is None else int(pairs.rows[row])
    return Flip(
        row=number,
        text=REDACTED if texts is None else _example(pairs, row, texts[number]),
        label=_named(labels, int(pairs.labels[row])),
        original=_named(labels, original),
        original_probability=_probability(pairs, pairs.original_probabilities, row, original),
        compressed=_named(labels, compressed),
        compressed_probability=_probability(pairs, pairs.compressed_probabilities, row, compressed),
    )


def _example(pairs: Pairs, row: int, text: str) -> str:
    """The text of a row; where several answers are given about it, what this one is about."""
    if pairs.places is None:
        return shortened(text, _LETTERS)
    place = int(pairs.places[row])
    if pairs.task == FEATURE_EXTRACTION:
        return f"the nearest text, by its number among those decided among, to: {shortened(text, _LETTERS)}"
    if pairs.spans is not None:
        return f"the {('first', 'last')[place]} token of the answer, counted from 0, to: {shortened(text, _LETTERS)}"
    if pairs.vocabulary is not None:
        return f"token {place} of: {shortened(text, _LETTERS)}"
    words = text.split(" ")
    before, after = words[max(0, place - _WORDS) : place], words[place + 1 : place + 1 + _WORDS]
    return shortened(" ".join([*before, f"»{words[place]}«", *after]), _LETTERS)


def _probability(pairs: Pairs, probabilities: np.ndarray, row: int, guess: int) -> float | None:
    """Of an answer; None where it is not among the choices that were kept."""
    if pairs.vocabulary is None:
        return float(probabilities[row, guess])
    places = np.flatnonzero(pairs.vocabulary.choices[row] == guess)
    return float(probabilities[row, places[0]]) if len(places) else None


def _named(labels: dict[int, str], index: int) -> str:
    return labels.get(index, str(index))
