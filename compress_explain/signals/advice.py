"""What the findings suggest doing, in words, each suggestion with the figures that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import pandas as pd

from compress_explain.signals.better_students import layers_to_distil, student_shape
from compress_explain.signals.evidence import Advice, Evidence
from compress_explain.signals.rare_attributes import rare_and_clear
from compress_explain.signals.weak_places import bottleneck, heads_to_keep

__all__ = ["Advice", "advice"]

_NOTHING = Advice(
    kind="nothing",
    text="Nothing is suggested: no figure here differs so surely from its neighbours, or from a whole signal, that one could act on it.",
    evidence=(),
)


def advice(table: pd.DataFrame, shares: Mapping[str, float] | None = None) -> list[Advice]:
    """At least one: what is sure enough to act on, or that nothing is.

    ``table`` holds one :class:`Finding` a row. ``shares`` says of slices what share of rows is in each, in [0, 1]; rare
    attributes are looked at only where it is known.
    """
    evidence = Evidence.of(table)
    found = chain(
        rare_and_clear(evidence, shares or {}),
        bottleneck(evidence),
        heads_to_keep(evidence),
        layers_to_distil(evidence),
        student_shape(evidence),
    )
    return list(found) or [_NOTHING]
