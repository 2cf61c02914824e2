"""Which point the gates and what is aimed at pick, and why; judged on validation alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compress_explain.search.options import AIMS, By

_LEAST = {
    "work": "does the least work", "flops": "does the fewest FLOPs", "parameters": "has the fewest parameters",
    "bytes": "takes the fewest bytes", "milliseconds": "is the fastest",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Named:
    """The ``number`` of a trial, None when none can be named, and the reason in words."""

    number: int | None
    why: str


def name_one(trials: Mapping[int, Mapping[str, Any]], by: By, aims: Mapping[str, float], *, timed: bool) -> Named:
    """The point to be deployed: of the trials that pass every gate on validation, the one that

    - meets what is aimed at with the most reserve, where anything is; else comes nearest to it;
    - costs least, where nothing is aimed at.

    Where none passes, those that no gate failed are taken, and where there is none, none is named.
    """
    done = {number: body for number, body in trials.items() if body["trouble"] is None}
    for state, words in (("pass", "of those that pass every gate"), ("inconclusive", "of those that no gate failed")):
        mine = {number: body for number, body in done.items() if body["state"] == state}
        if mine:
            return _of(mine, by, aims, timed=timed, words=words)
    if not done:
        return Named(number=None, why="no trial could be carried out")
    return Named(number=None, why=f"none of {len(done)} trials passes every gate on validation")


def missed(body: Mapping[str, Any], aims: Mapping[str, float]) -> float:
    """By which share a trial misses the aim that it misses most, by what was measured; 0 when all are met."""
    shares = [_value(body, name.removesuffix("_kept")) / aims[name] - 1 for name in AIMS if name in aims]
    return max(0.0, body["target_missed"] or 0.0, *shares)


def cost(body: Mapping[str, Any], by: By) -> float:
    """What a trial costs, by what was measured of what would be deployed; infinite where nothing was written."""
    return _value(body, by)


def _of(mine: Mapping[int, Mapping[str, Any]], by: By, aims: Mapping[str, float], *, timed: bool, words: str) -> Named:
    if not (aims or timed):
        number = _first(mine, lambda body: (cost(body, by), -_reserve(body)))
        return Named(number=number, why=f"it {_LEAST[by]} {words}")
    meeting = {number: body for number, body in mine.items() if missed(body, aims) == 0.0}
    if meeting:
        number = _first(meeting, lambda body: (-_reserve(body), cost(body, by)))
        return Named(number=number, why=f"it meets what is aimed at, with the most reserve {words}")
    number = _first(mine, lambda body: (missed(body, aims), -_reserve(body)))
    share = missed(mine[number], aims)
    return Named(number=number, why=f"it comes nearest to what is aimed at {words}, and misses it by {share:.1%}")


def _first(mine: Mapping[int, Mapping[str, Any]], key: Callable[[Mapping[str, Any]], tuple[float, float]]) -> int:
    return min(mine, key=lambda number: (*key(mine[number]), number))


def _reserve(body: Mapping[str, Any]) -> float:
    return -math.inf if body["reserve"] is None else float(body["reserve"])


def _value(body: Mapping[str, Any], name: str) -> float:
    return math.inf if body.get(name) is None else float(body[name])
