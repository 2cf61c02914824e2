"""Slices of predicted tokens: bands of where they stand in their row, or of how common they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from compress_explain.data.slices import SliceRule


def token_slices(rules: Sequence[SliceRule], ids: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """For each band of each rule, one array of flags a row: which of its predicted tokens lie in it.

    ``ids`` holds the tokens of each row; a row of L predicts L - 1. Bands are named after their
    place and the values in them, ends included: ``position=q1 0-41``.
    """
    ends = np.cumsum([len(row) - 1 for row in ids])[:-1]
    measures = {"position": _positions, "frequency": _frequencies}
    return {
        name: np.split(flags, ends)
        for rule in rules
        if rule.token is not None and rule.quantiles is not None
        for name, flags in _bands(rule.name, measures[rule.token](ids), rule.quantiles).items()
    }


def _positions(ids: list[np.ndarray]) -> Int[np.ndarray, " predicted"]:
    """The position, from 0, that each token is predicted at: the one before its own."""
    return np.concatenate([np.arange(len(row) - 1) for row in ids])


def _frequencies(ids: list[np.ndarray]) -> Int[np.ndarray, " predicted"]:
    """How often each predicted token occurs among all of them."""
    _, which, counts = np.unique(np.concatenate([row[1:] for row in ids]), return_inverse=True, return_counts=True)
    return counts[which]


def _bands(name: str, values: Int[np.ndarray, " predicted"], quantiles: int) -> dict[str, np.ndarray]:
    """Shares of ``values`` as equal as ties allow: equal values stay together, so there may be fewer."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, quantiles + 1)[1:-1]))
    number = np.searchsorted(edges, values, side="left")
    flags = [number == band for band in np.unique(number)]
    return {f"{name}=q{q} {values[band].min()}-{values[band].max()}": band for q, band in enumerate(flags, start=1)}
