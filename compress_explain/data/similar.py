"""Texts in pairs, and how alike people find the two."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from compress_explain.errors import InputError


def unrolled(frame: pd.DataFrame, where: str, first: str, second: str) -> pd.DataFrame:
    """Two rows a pair, one after the other, that differ in the text alone.

    Raises:
        InputError: a pair without its second text.
    """
    empty = frame[second].isna()
    if empty.any():
        problem = f"{int(empty.sum())} rows have no second text (first: row {int(empty.argmax())})"
        raise InputError(where, second, problem, "remove those rows")
    rows = frame.loc[frame.index.repeat(2)].reset_index(drop=True)
    return rows.assign(**{first: np.stack([frame[first], frame[second]], 1).reshape(-1)})


def similarities(column: pd.Series, where: str) -> Float[np.ndarray, " rows"]:
    """How alike texts are, in any unit: only their order is used.

    Raises:
        InputError: something that is no finite number, or the same one everywhere.
    """
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(bad.argmax())
        problem = f"{int(bad.sum()) // 2} pairs have no number of how alike they are (first: row {row // 2})"
        raise InputError(where, column.iloc[row], problem, f"give one in {column.name}, or remove those rows")
    if np.ptp(numbers) == 0:
        raise InputError(where, float(numbers[0]), "all pairs are equally alike", "give pairs that differ in it")
    return numbers
