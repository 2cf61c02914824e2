"""Slices that nobody declared: where right answers go wrong more often than elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress_explain.comparison.discovery import DISCOVERED_SLICES, FoundSlice, discover, features_of
from compress_explain.comparison.predictions import Pairs
from compress_explain.report.charts import shortened
from compress_explain.report.flips import REDACTED
from compress_explain.report.judgement import Scores

_EXAMPLES, _LETTERS = 3, 160


@dataclass(frozen=True, kw_only=True)
class LostRow:
    """A row in the slice whose right answer went wrong."""

    row: int
    text: str


@dataclass(frozen=True, kw_only=True)
class DiscoveredRow:
    """One candidate; ``lost`` counts the rows of both halves, ``examples`` are the starkest of them."""

    found: FoundSlice
    lost: int
    examples: tuple[LostRow, ...]


@dataclass(frozen=True, kw_only=True)
class DiscoveredSection:
    """What was confirmed, and what was looked at without being confirmed."""

    confirmed: tuple[DiscoveredRow, ...]
    others: tuple[DiscoveredRow, ...]
    rows: int
    held_out: int
    features: tuple[str, ...]
    confidence: float
    redacted: bool


def discovered(
    pairs: Pairs, scores: Scores, texts: tuple[str, ...] | None, options: dict[str, int | float]
) -> DiscoveredSection | None:
    """None unless slices were looked for; ``options`` are those that they were looked for with, ``texts`` those of the rows."""
    counted = scores.get((DISCOVERED_SLICES, "all"))
    if counted is None:
        return None
    found = discover(pairs, **options)  # type: ignore[arg-type]
    rows = [_row(pairs, each, texts) for each in found]
    return DiscoveredSection(
        confirmed=tuple(row for row in rows if row.found.confirmed),
        others=tuple(row for row in rows if not row.found.confirmed),
        rows=len(pairs),
        held_out=len(pairs) - len(pairs) // 2,
        features=tuple(features_of(pairs)),
        confidence=float(counted["confidence"]),
        redacted=texts is None,
    )


def looked_for_with(evaluators: list[dict[str, object]]) -> dict[str, int | float]:
    """The options of discovery among the evaluators that settings describe."""
    facts = next((each for each in evaluators if each["name"] == "discovery"), {})
    return {key: value for key, value in facts.items() if isinstance(value, int | float)}


def _row(pairs: Pairs, found: FoundSlice, texts: tuple[str, ...] | None) -> DiscoveredRow:
    lost = found.rows[(pairs.original_right & ~pairs.compressed_right)[found.rows]]
    of_label = [
        side[lost, pairs.answers[lost]] for side in (pairs.original_probabilities, pairs.compressed_probabilities)
    ]
    order = lost[np.argsort(of_label[1] - of_label[0], kind="stable")][:_EXAMPLES]
    examples = tuple(
        LostRow(row=int(row), text=REDACTED if texts is None else shortened(texts[row], _LETTERS)) for row in order
    )
    return DiscoveredRow(found=found, lost=len(lost), examples=examples)
