"""How alike two models arrange the same decisions, depth by depth: maps of CKA."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from compress_explain.signals.findings import Finding
from compress_explain.signals.similarity.cka import cka_interval, cka_map
from compress_explain.signals.stream.states import States

_MOST = 2000  # decisions


def alike(
    original: States, compressed: States, *, reference: States | None = None, confidence: float, seed: int
) -> Iterator[Finding]:
    """Debiased CKA of every depth with every depth: of both models, within each, and of the original with a ``reference``.

    A depth of the compressed model beside the original's of the same name has an interval. More than 2,000 decisions are drawn from.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(original))[:_MOST])
    pairs = {"": (original, compressed), "original": (original, original), "compressed": (compressed, compressed)}
    pairs |= {} if reference is None else {"reference": (original, reference)}
    for model, (one, other) in pairs.items():
        mine, theirs = one.values[rows], other.values[rows]
        table = cka_map(mine, mine if other is one else theirs)
        for i, depth in enumerate(one.depths):
            for j, beside in enumerate(other.depths):
                same = depth == beside and other is not one and not math.isnan(table[i, j])
                low, high = cka_interval(mine[:, i], theirs[:, j], confidence, seed) if same else (math.nan, math.nan)
                yield Finding(
                    part="cka", figure="cka", value=float(table[i, j]), low=low, high=high, unit="CKA", n=len(rows),
                    model=model, layer=depth, other=beside,
                )  # fmt: skip
