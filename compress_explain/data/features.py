"""Columns of a data set that say something of a row besides its input and its label."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from pandas.api import types

from compress_explain.data.slices import MAX_VALUES


def known_columns(frame: pd.DataFrame, besides: Collection[str]) -> list[str]:
    """Columns that hold flags, numbers, or words of which there are at most :data:`MAX_VALUES` different ones.

    Left out are columns with missing values, those with one value only, and whole numbers that differ from row to
    row, which number the rows.

    >>> frame = pd.DataFrame({"id": [3, 1, 2], "genre": ["a", "b", "a"], "same": [1, 1, 1], "heat": [0.5, 1.5, 2.0]})
    >>> known_columns(frame, besides=())
    ['genre', 'heat']
    """
    return [str(name) for name in frame.columns if str(name) not in besides and _is_feature(frame[name])]


def as_features(frame: pd.DataFrame, columns: Collection[str]) -> dict[str, np.ndarray]:
    """Those of ``columns`` that ``frame`` has, without a missing value, as arrays of words, numbers or flags."""
    present = [name for name in columns if name in frame.columns and not frame[name].isna().any()]
    return {name: _values(frame[name]) for name in present}


def _is_feature(column: pd.Series) -> bool:
    if column.isna().any():
        return False
    if types.is_bool_dtype(column) or types.is_float_dtype(column):
        return column.nunique() > 1
    if types.is_integer_dtype(column):
        return 1 < column.nunique() < len(column)
    return bool(column.map(lambda value: isinstance(value, str)).all()) and 1 < column.nunique() <= MAX_VALUES


def _values(column: pd.Series) -> np.ndarray:
    if types.is_bool_dtype(column):
        return column.to_numpy(dtype=bool)
    if types.is_integer_dtype(column):
        return column.to_numpy(dtype=np.int64)
    if types.is_float_dtype(column):
        return column.to_numpy(dtype=np.float64)
    return column.astype(str).to_numpy(dtype=np.str_)
