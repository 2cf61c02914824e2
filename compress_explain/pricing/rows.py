"""Values of a batch row by row, also where a layer hands on the tokens of all rows as one axis (OPT's does)."""

from __future__ import annotations

from torch import Tensor


def by_row(values: Tensor, rows: int) -> Tensor:
    """``(rows, tokens, width)``, also of ``(rows * tokens, width)``; shares the memory."""
    return values if values.dim() > 2 else values.unflatten(0, (rows, -1))
