"""Which decisions probes learn from, which choose a layer, and which are reported: never the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

_FOLDS = 5
_CHOOSING = 0.25  # of the rows to learn from


@dataclass(frozen=True, kw_only=True)
class Part:
    """Decisions by number: to ``fit`` probes on, to ``choose`` a layer by, and to ``report``."""

    fit: Int[np.ndarray, " fit"] = field(repr=False)
    choose: Int[np.ndarray, " choose"] = field(repr=False)
    report: Int[np.ndarray, " report"] = field(repr=False)


def parts_of(rows: Int[np.ndarray, " n"], to_learn: int, seed: int) -> tuple[Part, ...]:
    """Split decisions by the ``rows`` that they stand in; the first ``to_learn`` decisions are there to learn from.

    With such there is one part: probes are fitted on three quarters of their rows, a quarter chooses, and all others are
    reported. Without, rows are dealt into five: each fifth is reported once, the next one chooses and the other three are
    fitted on (cross-fitting), so that every row is reported and none by a probe, or at a layer, that has seen it.

    >>> import numpy as np
    >>> [len(part.report) for part in parts_of(np.arange(12), to_learn=0, seed=0)]
    [3, 3, 2, 2, 2]
    >>> (part,) = parts_of(np.arange(12), to_learn=8, seed=0)
    >>> len(part.fit), len(part.choose), part.report.tolist()
    (6, 2, [8, 9, 10, 11])
    """
    if to_learn:
        names = _dealt(rows[:to_learn], seed)
        few = max(1, round(_CHOOSING * len(names)))
        fit, choose = (np.flatnonzero(np.isin(rows[:to_learn], each)) for each in (names[few:], names[:few]))
        return (Part(fit=fit, choose=choose, report=np.arange(to_learn, len(rows))),)
    folds = [np.flatnonzero(np.isin(rows, each)) for each in np.array_split(_dealt(rows, seed), _FOLDS)]
    return tuple(
        Part(
            fit=np.sort(np.concatenate([folds[(index + step) % _FOLDS] for step in range(2, _FOLDS)])),
            choose=folds[(index + 1) % _FOLDS],
            report=fold,
        )
        for index, fold in enumerate(folds)
    )


def turned(parts: Sequence[Part], rows: Int[np.ndarray, " n"], seed: int) -> tuple[Part, ...]:
    """The same decisions are reported, but probes learn from others of them and not from what there was to learn from.

    >>> import numpy as np
    >>> again = turned(parts_of(np.arange(12), to_learn=6, seed=0), np.arange(12), seed=0)
    >>> sorted(np.concatenate([part.report for part in again]).tolist()), min(int(part.fit.min()) for part in again)
    ([6, 7, 8, 9, 10, 11], 6)
    """
    reported = np.sort(np.concatenate([part.report for part in parts]))
    return tuple(
        Part(fit=reported[part.fit], choose=reported[part.choose], report=reported[part.report])
        for part in parts_of(rows[reported], 0, seed)
    )


def _dealt(rows: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " rows"]:
    return np.random.default_rng(seed).permutation(np.unique(rows))
