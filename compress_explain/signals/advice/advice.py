"""What the evidence on signals suggests, in words: nothing that an interval does not bear out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from compress_explain.signals.advice.advice_on_layers import bottleneck, heads_to_keep, layers_to_distil
from compress_explain.signals.advice.advice_on_shape import student
from compress_explain.signals.advice.advice_on_signatures import signatures
from compress_explain.signals.advice.advised import Advice
from compress_explain.signals.found import Found

__all__ = ["Advice", "advice"]
_NO_SHARES: Mapping[str, float] = MappingProxyType({})


def advice(table: pd.DataFrame, shares: Mapping[str, float] = _NO_SHARES) -> list[Advice]:
    """What a table of findings suggests; empty where its figures bear nothing out.

    ``shares`` are those of all rows that stand in each slice; without them no slice is taken for a rare one.
    """
    found = Found(table=table)
    single = (bottleneck(found), layers_to_distil(found), heads_to_keep(found), student(found))
    return [*(each for each in single if each is not None), *signatures(found, shares)]
