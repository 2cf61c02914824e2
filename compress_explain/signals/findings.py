"""What is found about signals: one figure a line, all parts in one table, so that everything else is told of that table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from compress_explain.data.examples import ALL

ORIGINAL, COMPRESSED, RANDOM, SHUFFLED = "original", "compressed", "random", "shuffled"  # models; two are controls
CHOSEN = "chosen"  # the layer that a signal is told at
FLIPPED = "flipped"  # the slice of decisions that both models decide differently


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One figure, from ``low`` to ``high`` at the evaluator's two-sided confidence; NaN where it has no interval.

    ``part`` is what was done (``probe``, ``cka``, ``patching`` …), ``figure`` what is told of it, ``signal`` of what
    (``task``, ``decision``, ``quality``, ``attribute.negation``). ``model`` is ``original``, ``compressed`` or a control;
    empty where both are meant. ``layer`` is in the original's coordinates, ``embedding`` before the first; ``other`` is the second
    layer of a map, or a component. ``n`` counts decisions. ``note`` says what a reader must know of this figure.
    """

    part: str
    figure: str
    value: float
    unit: str
    n: int
    low: float = math.nan
    high: float = math.nan
    signal: str = ""
    model: str = ""
    layer: str = ""
    other: str = ""
    slice: str = ALL
    note: str = ""


COLUMNS = tuple(Finding.__dataclass_fields__)


def as_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row a finding, in their order."""
    return pd.DataFrame([asdict(each) for each in findings], columns=list(COLUMNS))
