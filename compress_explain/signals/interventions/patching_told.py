"""What patching is told in: shares of the gap between both models' logits, and where along the path most is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from compress_explain.data.examples import ALL, Examples
from compress_explain.signals.findings import FLIPPED, Finding
from compress_explain.signals.interventions.ratios import ratios_of_sums
from compress_explain.signals.stream.decisions import decision_rows, decision_slices
from compress_explain.signals.stream.places import LAYER

PART = "patching"
RECOVERED, BROKEN = FIGURES = ("recovered", "broken")
LOGIT = "logit"  # where the path ends
_LEAST = 30  # rows of a slice that something is told of


@dataclass(frozen=True, kw_only=True)
class Moved:
    """By how much each decision moved, of the way from one model's logits to the other's.

    ``along`` holds for both figures and every place, by layer and site, the product of the move with the gap; ``whole`` that of the gap with
    itself; NaN where a decision was left out, or nothing could be exchanged.
    """

    examples: Examples = field(repr=False)
    places: Sequence[tuple[str, str]]
    along: Float[np.ndarray, "2 places n"] = field(repr=False)
    whole: Float[np.ndarray, " n"] = field(repr=False)
    flipped: Bool[np.ndarray, " n"] = field(repr=False)
    left_out: int = 0

    @classmethod
    def nothing(cls, examples: Examples, places: Sequence[tuple[str, str]], *, left_out: int) -> Moved:
        """To be filled in; ``left_out`` counts rows that will not be."""
        count = int(examples.decisions.sum())
        return cls(
            examples=examples,
            places=places,
            along=np.full((2, len(places), count), np.nan),
            whole=np.full(count, np.nan),
            flipped=np.zeros(count, dtype=bool),
            left_out=left_out,
        )

    def findings(self, confidence: float, seed: int) -> Iterator[Finding]:
        """Both figures of every place: of all decisions, of the slices that are large enough, of those that are flipped."""
        seen, rows = ~np.isnan(self.whole), decision_rows(self.examples)
        for name, flags in {**decision_slices(self.examples), FLIPPED: self.flipped}.items():
            members = np.flatnonzero(flags & seen)
            many = len(np.unique(rows[members]))
            if name == ALL or many >= _LEAST or (name == FLIPPED and many):
                yield from self._of(name, members, rows[members], confidence, seed)

    def _of(self, name: str, members: np.ndarray, rows: np.ndarray, confidence: float, seed: int) -> Iterator[Finding]:
        parts = self.along[:, :, members].reshape(-1, len(members))
        told = ratios_of_sums(parts, self.whole[members], rows, confidence, seed)
        keys = [(figure, *place) for figure in FIGURES for place in self.places]
        for (figure, layer, site), (value, low, high) in zip(keys, told, strict=True):
            yield Finding(
                part=PART, figure=figure, value=value, low=low, high=high, unit="share", n=len(members),
                layer=layer, other=site, slice=name, note=self._note(value, members),
            )  # fmt: skip

    def _note(self, value: float, members: np.ndarray) -> str:
        if not self.whole[members].sum() > 0:
            return "both models give the same logits"
        if math.isnan(value):
            return "what passes here has another shape in the compressed model"
        return f"{self.left_out} rows are left out: the models read them as other tokens" if self.left_out else ""


def bottleneck(table: pd.DataFrame) -> str | None:
    """Where on the path embedding, layers, logit most is lost: a layer's name, ``embedding``, or ``logit`` for what follows the last.

    Whose step is the largest: from each layer to the next both shares rise, what is ``broken`` by what the compressed model has
    lost so far and what is ``recovered`` by no longer losing it; all steps sum up to 1. The step of a layer that is gone falls to
    the next that is there. None where patching told nothing.
    """
    of_path = table[(table["part"] == PART) & (table["other"] == LAYER) & (table["slice"] == ALL)]
    both = of_path.pivot_table(index="layer", columns="figure", values="value", sort=False)
    if both.empty or not set(FIGURES) <= set(both.columns) or both[list(FIGURES)].isna().to_numpy().any():
        return None
    lost = both[list(FIGURES)].mean(axis=1)
    steps = np.diff([0.0, *lost, 1.0])
    return [*map(str, lost.index), LOGIT][int(steps.argmax())]
