"""Which declared slices were harmed, when that is asked of all of them at once; and how small a margin each can certify."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binom, norm

from compress_explain.comparison.predictions import Pairs
from compress_explain.data.examples import ALL
from compress_explain.stats import unseen_rate_bound


@dataclass(frozen=True, kw_only=True)
class HarmedSlice:
    """A slice: ``lost`` rows went from right to wrong, ``won`` from wrong to right.

    ``p`` is the exact one-sided McNemar p, ``corrected`` for all declared slices (Holm); ``harmed`` says that this is below
    the level.
    """

    slice: str
    n: int
    lost: int
    won: int
    p: float
    corrected: float
    harmed: bool


def harmed_slices(pairs: Pairs, confidence: float = 0.90) -> list[HarmedSlice]:
    """Every declared slice that has rows, in order.

    ``confidence`` is that of two-sided intervals; the level of the one-sided tests together is half of what it leaves, 5% at 0.90.
    Empty where rows hold several decisions, which are not independent.
    """
    from statsmodels.stats.multitest import multipletests  # costs time to import

    named = [name for name, rows in pairs.slices.items() if name != ALL and rows.any()]
    if pairs.rows is not None or not named:
        return []
    right, right_after = pairs.original_right, pairs.compressed_right
    counts = [
        tuple(int((pairs.slices[name] & each).sum()) for each in (right & ~right_after, ~right & right_after))
        for name in named
    ]
    p = [_mcnemar(lost, won) for lost, won in counts]
    harmed, corrected, _, _ = multipletests(p, alpha=(1 - confidence) / 2, method="holm")
    sizes = [int(pairs.slices[name].sum()) for name in named]
    return [
        HarmedSlice(
            slice=name, n=n, lost=lost, won=won, p=p[place], corrected=float(corrected[place]), harmed=bool(harmed[place]),
        )
        for place, (name, n, (lost, won)) in enumerate(zip(named, sizes, counts, strict=True))
    ]  # fmt: skip


def certifiable_margin(lost: int, won: int, n: int, confidence: float = 0.90, power: float = 0.80) -> float:
    """The smallest ``max_drop`` of accuracy that a gate on n rows passes with ``power`` if truly nothing was lost, a share.

    (z of the level + z of the power) x root of (share of rows decided differently / n), the usual normal approximation
    for paired proportions (Connor 1987) at a true difference of 0. At least the exact bound on what was not seen in n rows, which is all
    that there is where no row was decided differently.

    >>> round(certifiable_margin(77, 78, 3092), 4)  # 5% decided differently
    0.01
    >>> round(certifiable_margin(0, 0, 60), 3)
    0.049
    """
    reach = float(norm.ppf((1 + confidence) / 2) + norm.ppf(power))
    return max(min(1.0, reach * math.sqrt((lost + won) / n / n)), unseen_rate_bound(n, confidence))


def certifiable_margins(pairs: Pairs, confidence: float = 0.90) -> dict[str, float]:
    """That of every slice that has rows, of all rows too; empty where rows hold several decisions."""
    if pairs.rows is not None:
        return {}
    lost, won = pairs.original_right & ~pairs.compressed_right, ~pairs.original_right & pairs.compressed_right
    return {
        name: certifiable_margin(int(lost[rows].sum()), int(won[rows].sum()), int(rows.sum()), confidence)
        for name, rows in pairs.slices.items()
        if rows.any()
    }


def _mcnemar(lost: int, won: int) -> float:
    """Chance of as many lost among those decided differently, or more, were lost and won as likely; 1 where none were."""
    return 1.0 if lost + won == 0 else float(binom.sf(lost - 1, lost + won, 0.5))
