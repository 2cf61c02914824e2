"""Choosing whole sublayers or layers under a budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compress_explain.choosing.ranking import ordinal, removal
from compress_explain.data.examples import ALL
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Layer, Sublayer
from compress_explain.plugins.strategy import Situation


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How many units of a kind to remove: a ``count``, or as many as keep a share ``flops_kept`` of layer FLOPs.

    They go in ``rounds`` rounds, about as many in each. The last unit of a stack that computes anything stays.
    """

    kind: Literal["sublayer", "layer"]
    count: int | None
    flops_kept: float | None
    rounds: int

    def check(self) -> None:
        """Raises InputError unless exactly one target is set and everything is in range."""
        culprit = f"strategies: {self.kind}s"
        if (self.count is None) == (self.flops_kept is None):
            raise InputError(
                culprit,
                {"count": self.count, "flops_kept": self.flops_kept},
                "exactly one target is needed",
                f"give count (of {self.kind}s removed) or flops_kept (of layer FLOPs that remain)",
            )
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise InputError(f"{culprit}.count", self.count, "not a whole number of 1 or more", "try 1")
        if self.flops_kept is not None and not 0 < self.flops_kept <= 1:
            raise InputError(
                f"{culprit}.flops_kept", self.flops_kept, "lies outside (0, 1]", "give a share such as 0.7"
            )
        if type(self.rounds) is not int or not 1 <= self.rounds <= 100:
            raise InputError(f"{culprit}.rounds", self.rounds, "not a whole number in 1..100", "try 4")

    def fit(self, anatomy: Anatomy) -> None:
        """Raises InputError when a model has too few units that could go."""
        units = _units(anatomy, self.kind)
        stacks = Counter(_stack(name) for name in units)
        fixed = Counter(_stack(name) for name, unit in units.items() if _stays(unit))
        most = sum(count - max(1, fixed[stack]) for stack, count in stacks.items())
        if most < (self.count or 1):
            raise InputError(
                f"strategies: {self.kind}s.{'flops_kept' if self.count is None else 'count'}",
                self.flops_kept if self.count is None else self.count,
                f"this model has {len(units)} {self.kind}s, of which {len(units) - most} must stay: "
                "one of each stack, and any that the model cannot do without",
                f"give at most {most}" if most else "leave this strategy out",
            )

    def wanted(self, situation: Situation) -> tuple[int, float, float]:
        """Of this round: at most so many units, until so many FLOPs are saved, and never more than so many."""
        number, rounds = situation.round, self.rounds
        if self.count is not None:
            return round(self.count * (number + 1) / rounds) - round(self.count * number / rounds), np.inf, np.inf
        assert self.flops_kept is not None, "one target is set"
        whole = situation.anatomy.flops
        room = max(0.0, whole * (1 - self.flops_kept) - situation.anatomy.saved(situation.removed, situation.ranks)[1])
        return len(situation.prices), room / (rounds - number), room


def cheapest_units(situation: Situation, extent: Extent) -> tuple[Edit, ...]:
    """The removals of this round, in one order of expected KL for each FLOP that a unit still costs."""
    prices, anatomy = situation.prices, situation.anatomy
    mine = [
        index
        for index in np.flatnonzero((prices.kind_of == extent.kind) & (prices.flops > 0)).tolist()
        if not _stays(anatomy.units[prices.components[index]])
    ]
    cost = prices.values["kl"][prices.slices.index(ALL)]
    shares = prices.decision_shares(extent.kind)
    left = _computing(situation, extent.kind)
    most, until, room = extent.wanted(situation)
    edits: list[Edit] = []
    saved = 0
    for rank, index in enumerate(sorted(mine, key=lambda each: (cost[each] / prices.flops[each], each)), start=1):
        stack = _stack(prices.components[index])
        if len(edits) >= most or saved >= until - 0.5:  # FLOPs are whole numbers
            break
        if left[stack] > 1 and saved + prices.flops[index] <= room + 0.5:
            left[stack] -= 1
            saved += int(prices.flops[index])
            edits.append(removal(prices, index, shares[:, index], f"{ordinal(rank)} cheapest of {len(mine)} per FLOP"))
    return tuple(edits)


def _computing(situation: Situation, kind: str) -> Counter[str]:
    """By stack: how many of its units still compute something."""
    anatomy, gone = situation.anatomy, situation.anatomy.closed(situation.removed)
    inner = {name: [each for each in anatomy.within(name) if each in anatomy.groups] for name in _units(anatomy, kind)}
    return Counter(_stack(name) for name, groups in inner.items() if not all(gone[each].all() for each in groups))


def _units(anatomy: Anatomy, kind: str) -> dict[str, Sublayer | Layer]:
    return {name: unit for name, unit in anatomy.units.items() if unit.kind == kind}


def _stays(unit: Sublayer | Layer) -> bool:
    return isinstance(unit, Layer) and unit.stays


def _stack(name: str) -> str:
    return name.split(".")[0]
