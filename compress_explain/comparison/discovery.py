"""Slices that nobody declared: found on one half of the rows, confirmed on the other.

SliceLine (Sagadeeva and Boehm, SIGMOD 2021) looks where harm is dense; whether answers go wrong more often there than
elsewhere is asked of rows that it has not seen, by Fisher's exact test, with Benjamini and Hochberg's correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control, hypergeom

from compress_explain.comparison.predicates import Condition, Predicate
from compress_explain.comparison.predictions import Pairs
from compress_explain.stats import rate_interval

DISCOVERED_SLICES = "discovered_slices"  # how many are confirmed
DISCOVERED_FLIPS = "discovered_flips"  # in each of them
FEWEST_ROWS = 40  # that are looked at
_FEW = 10  # whole numbers with at most so many values are also taken one by one
_CUTS = 7  # of a number, at its octiles
_LOSS = 1.0  # nats; what a row's loss rises by counts up to this, as much as a lost answer
_WEIGHT = (
    0.95  # of the harm inside against the size, SliceLine's alpha: a slice of a tenth of the rows is worth finding
)
_LISTED = 150  # candidates that SliceLine gives
_ALIKE = 0.5  # shared rows over all rows of two candidates: above, the second says nothing new
_SAME = 0.8  # shared rows over all rows: a condition more that leaves so many says nothing
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class FoundSlice:
    """A candidate, judged on rows that it was not found on.

    ``n`` rows of those are inside; ``inside`` and ``outside`` are the shares of rows whose right answer went wrong, with exact
    intervals. ``p`` is Fisher's, one-sided, ``q`` corrected for all candidates. ``share`` is that of all rows, of both
    halves, that are inside; ``rows`` are these.
    """

    predicate: Predicate
    n: int
    n_outside: int
    inside: float
    outside: float
    interval: tuple[float, float]
    outside_interval: tuple[float, float]
    confidence: float
    p: float
    q: float
    confirmed: bool
    share: float
    rows: Int[np.ndarray, " inside"] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class _Item:
    """A condition with the rows that meet it."""

    condition: Condition
    rows: Bool[np.ndarray, " n"]


def discover(
    pairs: Pairs, confidence: float = 0.90, most: int = 20, conditions: int = 2, seed: int = 0
) -> tuple[FoundSlice, ...]:
    """At most ``most`` candidates, the confirmed ones first, then by p.

    ``confidence`` is two-sided, of the intervals; ``conditions`` is how many a predicate has at most. Of candidates that confirmed ones
    contain, those stay confirmed that are worse than the rest of what contains them. Empty where rows are not decided
    on as a whole, where nothing went wrong, or where too few rows are there to halve.
    """
    features = features_of(pairs)
    lost = pairs.original_right & ~pairs.compressed_right
    if not features or not lost.any() or len(pairs) < FEWEST_ROWS:
        return ()
    first = np.zeros(len(pairs), dtype=bool)
    first[np.random.default_rng(seed).permutation(len(pairs))[: len(pairs) // 2]] = True
    items = _items(features, first)
    found = _candidates(items, harm(pairs), first, most, conditions)
    return _confirmed(found, features, lost, ~first, confidence)


def features_of(pairs: Pairs) -> dict[str, np.ndarray]:
    """What is known of every row, with its label, the original's answer (``guess``) and how sure it was."""
    if pairs.rows is not None:
        return {}
    return {
        **pairs.features,
        "label": pairs.labels.astype(np.str_),
        "guess": pairs.original_guesses.astype(np.str_),
        "confidence": pairs.original_probabilities.max(1),
    }


def harm(pairs: Pairs) -> Float[np.ndarray, " n"]:
    """1 for an answer that went wrong, and by how many nats a row's loss rose, at most 1."""
    rows = np.arange(len(pairs))
    before, after = (
        -np.log(np.maximum(side[rows, pairs.answers], 1e-300))
        for side in (pairs.original_probabilities, pairs.compressed_probabilities)
    )
    return (pairs.original_right & ~pairs.compressed_right) + np.clip(after - before, 0.0, _LOSS)


def regions(found: tuple[FoundSlice, ...]) -> list[dict[str, Any]]:
    """The confirmed ones as plain values for what watches a deployed model.

    ``share`` is that of the rows here, the reference; ``flip_rate`` that of right answers gone wrong, with its interval.
    """
    return [
        {
            "id": f"region-{number}", "predicate": str(each.predicate), "conditions": each.predicate.facts(),
            "share": each.share, "flip_rate": each.inside, "low": each.interval[0], "high": each.interval[1],
            "confidence": each.confidence, "n": each.n,
        }
        for number, each in enumerate((each for each in found if each.confirmed), start=1)
    ]  # fmt: skip


def _items(features: dict[str, np.ndarray], first: Bool[np.ndarray, " n"]) -> list[list[_Item]]:
    """Conditions that exclude each other, column by column, as SliceLine reads them; cut where the first half says."""
    columns = []
    for name, values in features.items():
        for conditions in _columns(name, values[first]):
            columns.append([_Item(condition=each, rows=each.of(values)) for each in conditions])
    return [column for column in columns if len(column) > 1]


def _columns(name: str, values: np.ndarray) -> Iterator[list[Condition]]:
    kinds = np.unique(values)
    if values.dtype.kind in "biU" and len(kinds) <= (_FEW if values.dtype.kind == "i" else len(kinds)):
        yield [Condition(feature=name, op="=", value=kind.item()) for kind in kinds]
    if values.dtype.kind in "if" and len(kinds) > 2:
        for cut in _cuts(values):
            yield [Condition(feature=name, op="<=", value=cut), Condition(feature=name, op=">", value=cut)]


def _cuts(values: np.ndarray) -> list[Any]:
    """Where to cut a number; to three digits, so that it can be read."""
    cuts = np.quantile(values, np.arange(1, _CUTS + 1) / (_CUTS + 1), method="lower")
    if values.dtype.kind == "f":
        cuts = np.array([float(f"{cut:.3g}") for cut in cuts])
    return [cut.item() for cut in np.unique(cuts) if values.min() <= cut < values.max()]


def _candidates(
    columns: list[list[_Item]], harm: Float[np.ndarray, " n"], first: Bool[np.ndarray, " n"], most: int, conditions: int
) -> list[Predicate]:
    """What SliceLine finds on the first half, the clearest first, without what repeats another."""
    from sliceline import Slicefinder  # costs time to import

    codes = np.stack([_codes(column)[first] for column in columns], 1)
    least = max(10, int(0.02 * len(codes)))
    finder = Slicefinder(alpha=_WEIGHT, k=_LISTED, max_l=conditions, min_sup=least, verbose=False)
    finder.fit(codes, harm[first])
    chosen = [
        [columns[place][int(code) - 1] for place, code in enumerate(line) if code is not None]
        for line in finder.top_slices_
    ]
    chosen = [_plain(items, first) for items in chosen]
    members = [_together(items)[first] for items in chosen]
    order = np.argsort([-_clearness(harm[first], inside) for inside in members], kind="stable")
    kept: list[int] = []
    for index in order:
        if len(kept) < most and not any(_overlap(members[index], members[other]) > _ALIKE for other in kept):
            kept.append(int(index))
    return [Predicate(conditions=tuple(item.condition for item in chosen[index])) for index in kept]


def _plain(items: list[_Item], first: Bool[np.ndarray, " n"]) -> list[_Item]:
    """Without the conditions that nearly all rows meet which meet the others."""
    for item in items:
        others = [other for other in items if other is not item]
        if others and _overlap(_together(items)[first], _together(others)[first]) >= _SAME:
            return _plain(others, first)
    return items


def _together(items: list[_Item]) -> Bool[np.ndarray, " n"]:
    rows: np.ndarray = np.logical_and.reduce([item.rows for item in items])
    return rows


def _codes(column: list[_Item]) -> Int[np.ndarray, " n"]:
    """Which item of a column each row meets, from 1; 0 for none."""
    return np.sum([number * item.rows for number, item in enumerate(column, start=1)], axis=0)


def _clearness(harm: Float[np.ndarray, " n"], inside: Bool[np.ndarray, " n"]) -> float:
    """Welch's t of the harm inside against outside."""
    one, other = harm[inside], harm[~inside]
    if len(one) < 2 or len(other) < 2:
        return 0.0
    error = one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)
    return float((one.mean() - other.mean()) / np.sqrt(error)) if error > 0 else 0.0


def _overlap(one: Bool[np.ndarray, " n"], other: Bool[np.ndarray, " n"]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def _confirmed(
    candidates: list[Predicate],
    features: dict[str, np.ndarray],
    lost: Bool[np.ndarray, " n"],
    second: Bool[np.ndarray, " n"],
    confidence: float,
) -> tuple[FoundSlice, ...]:
    inside = [predicate.of(features) for predicate in candidates]
    judged = [index for index, rows in enumerate(inside) if 0 < rows[second].sum() < second.sum()]
    if not judged:
        return ()
    p = np.array([worse(lost[second], inside[index][second]) for index in judged])
    q = false_discovery_control(p)
    sure = [index for index, chance in zip(judged, q, strict=True) if chance <= _LEVEL]
    sure.sort(key=lambda index: worse(lost, inside[index]))  # on both halves: that they are worse is settled
    stays = _telling(sure, candidates, [rows[second] for rows in inside], lost[second])
    found = [
        _found(candidates[index], inside[index], lost, second, (float(p[place]), float(q[place])), index in stays, confidence)
        for place, index in enumerate(judged)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda each: (not each.confirmed, each.p, str(each.predicate))))


def _telling(
    sure: list[int],
    candidates: list[Predicate],
    inside: list[Bool[np.ndarray, " n"]],
    lost: Bool[np.ndarray, " n"],
) -> set[int]:
    """Of those in their order that are worse, the ones that say more than those before.

    What a kept one contains must be worse than the rest of that; anything else must be worse on the rows that no kept one holds.
    """
    kept: list[int] = []
    for index in sure:
        around = [other for other in kept if candidates[index].within(candidates[other])]
        held = [inside[other] for other in around] or [
            ~np.logical_or.reduce([lost & False, *(inside[other] for other in kept)])
        ]
        if all(worse(lost[rows], inside[index][rows]) <= _LEVEL for rows in held):
            kept.append(index)
    return set(kept)


def _found(
    predicate: Predicate,
    inside: Bool[np.ndarray, " n"],
    lost: Bool[np.ndarray, " n"],
    second: Bool[np.ndarray, " n"],
    chances: tuple[float, float],
    confirmed: bool,
    confidence: float,
) -> FoundSlice:
    within, without = lost[second & inside], lost[second & ~inside]
    return FoundSlice(
        predicate=predicate,
        n=len(within),
        n_outside=len(without),
        inside=float(within.mean()),
        outside=float(without.mean()),
        interval=rate_interval(int(within.sum()), len(within), confidence),
        outside_interval=rate_interval(int(without.sum()), len(without), confidence),
        confidence=confidence,
        p=chances[0],
        q=chances[1],
        confirmed=confirmed,
        share=float(inside.mean()),
        rows=np.flatnonzero(inside),
    )


def worse(lost: Bool[np.ndarray, " n"], inside: Bool[np.ndarray, " n"]) -> float:
    """Fisher's exact one-sided p: chance of as many losses inside or more, were the same number spread at random.

    >>> import numpy as np
    >>> lost, inside = np.arange(20) < 5, np.arange(20) < 6
    >>> round(worse(lost, inside), 6)  # C(6, 5) / C(20, 5)
    0.000387
    """
    return float(hypergeom.sf(int((lost & inside).sum()) - 1, len(lost), int(lost.sum()), int(inside.sum())))
