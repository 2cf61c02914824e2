"""Which components carry a slice, and which carry it and not the rest, read from a price table."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from compress_explain.data.examples import ALL
from compress_explain.errors import InputError, did_you_mean
from compress_explain.pricing.prices import Prices


def bearing(prices: Prices, slice_name: str) -> pd.DataFrame:
    """What each removal does to a slice, and to everything else; one row a component.

    Columns: ``component``, ``kind``; ``inside`` and ``outside``, the expected loss change on the
    slice and on the examples outside it (nats), each with ``_se``; ``share_inside`` and
    ``share_outside``, of all expected logit movement among its kind; ``p``, of no difference
    between inside and outside, by Holm over all components of its kind (two-sided z test).
    Inside and outside are taken as independent: of a slice of tokens, whose rows lie on both sides,
    ``outside_se`` and ``p`` are therefore rather too large.

    Raises:
        InputError: no such slice, or nothing lies outside or inside it.
    """
    if slice_name not in prices.slices or slice_name == ALL:
        names = [name for name in prices.slices if name != ALL]
        raise InputError(
            "slice", slice_name, "no such slice here", did_you_mean(slice_name, names) if names else "declare slices"
        )
    removals = np.flatnonzero((np.array(prices.edits) == "remove") & ~np.isin(prices.kind_of, ["sublayer", "layer"]))
    everything, inside = 0, prices.slices.index(slice_name)
    if not 1 < prices.counts[inside] < prices.counts[everything] - 1:
        raise InputError("slice", slice_name, f"holds {prices.counts[inside]} of {prices.counts[0]}", "choose another")
    loss, error = prices.values["loss_change"][:, removals], prices.standard_error[:, removals]
    outside, outside_error = _outside(loss, error, prices.counts[everything], prices.counts[inside], inside)
    z = (loss[inside] - outside) / np.maximum(np.hypot(error[inside], outside_error), 1e-300)
    share_inside, share_outside = _shares(prices, removals, inside)
    return pd.DataFrame(
        {
            "component": [prices.components[index] for index in removals],
            "kind": prices.kind_of[removals],
            "inside": loss[inside],
            "inside_se": error[inside],
            "outside": outside,
            "outside_se": outside_error,
            "share_inside": share_inside,
            "share_outside": share_outside,
            "p": _holm(2 * norm.sf(np.abs(z)), prices.kind_of[removals]),
        }
    )


def _outside(
    loss: np.ndarray, error: np.ndarray, everything: int, n: int, inside: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of what is not in the slice, from those of all and of the slice."""
    rest = everything - n
    squares = [
        count * ((count - 1) * error[row] ** 2 + loss[row] ** 2) for row, count in ((0, everything), (inside, n))
    ]
    mean = (everything * loss[0] - n * loss[inside]) / rest
    variance = np.maximum((squares[0] - squares[1]) / rest - mean**2, 0)
    return mean, np.sqrt(variance / (rest - 1))


def _holm(p: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Adjusted within each kind (Holm 1979); statsmodels' collects garbage at each call, seconds for a report."""
    adjusted = np.ones_like(p)
    for kind in dict.fromkeys(kinds):
        mine = p[kinds == kind]
        order = np.argsort(mine, kind="stable")
        steps = np.maximum.accumulate(mine[order] * np.arange(len(mine), 0, -1))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        adjusted[kinds == kind] = np.minimum(steps, 1)[back]
    return adjusted


def _shares(prices: Prices, removals: np.ndarray, inside: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of all logit movement among its kind that each removal carries, in the slice and outside it."""
    moves = prices.values["logit_move"][:, removals]
    counts = prices.counts
    both = np.stack(
        [moves[inside], (counts[0] * moves[0] - counts[inside] * moves[inside]) / (counts[0] - counts[inside])]
    )
    kinds = prices.kind_of[removals]
    shares = np.zeros_like(both)
    for kind in dict.fromkeys(kinds):
        mine = kinds == kind
        shares[:, mine] = both[:, mine] / np.maximum(both[:, mine].sum(1, keepdims=True), 1e-300)
    return shares[0], shares[1]
