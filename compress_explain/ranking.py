"""Choosing the cheapest components under a budget: what the removal strategies share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compress_explain.edits import Edit
from compress_explain.errors import InputError
from compress_explain.examples import ALL
from compress_explain.pricing.prices import Prices
from compress_explain.strategy import Situation

_PORTIONS = 20


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to remove: a ``share`` of the components of a kind, or down to a share of FLOPs.

    ``flops_kept`` is the share of the FLOPs of all layers that remains after the strategy, also
    counting what earlier strategies took. ``floor`` is the share of each group that always stays,
    ``bite`` the share of what it has left that a group may lose in one round. ``proportional``
    rounds each take the same share of the FLOPs that are left, even ones the same amount.

    What is cheap is measured ``by`` expected KL, or by that of softened predictions: a model is
    sure of itself on the rows that it was trained on, and there KL hears only of the few in doubt.
    The latter also tells what components of a group cost ``together``, where prices hold their moves.
    """

    share: float | None
    flops_kept: float | None
    floor: float
    rounds: int
    bite: float = 1.0
    proportional: bool = False
    by: Literal["kl", "soft_kl"] = "kl"
    together: bool = False

    def check(self, strategy: str) -> None:
        """Raises InputError unless exactly one target is set and everything is in range."""
        if (self.share is None) == (self.flops_kept is None):
            raise InputError(
                f"strategies: {strategy}",
                {"share": self.share, "flops_kept": self.flops_kept},
                "exactly one target is needed",
                "give share (of components removed) or flops_kept (of layer FLOPs that remain)",
            )
        for name, value, low_open in (("share", self.share, False), ("flops_kept", self.flops_kept, True)):
            if value is not None and not (0 < value <= 1 if low_open else 0 <= value < 1):
                interval = "(0, 1]" if low_open else "[0, 1)"
                raise InputError(
                    f"strategies: {strategy}.{name}", value, f"lies outside {interval}", "give a share such as 0.3"
                )
        if not 0 <= self.floor < 1:
            raise InputError(f"strategies: {strategy}.floor", self.floor, "lies outside [0, 1)", "try 0.1")
        if not 0 < self.bite <= 1:
            raise InputError(f"strategies: {strategy}.bite", self.bite, "lies outside (0, 1]", "try 0.35")
        if not 1 <= self.rounds <= 100:
            raise InputError(f"strategies: {strategy}.rounds", self.rounds, "lies outside 1..100", "try 4")


def cheapest(situation: Situation, kinds: Sequence[str], budget: Budget) -> tuple[Edit, ...]:
    """The removals of this round: components of ``kinds``, all in one order of expected KL per FLOP.

    The KL divergence from the present predictions ranks, not the signed loss: many small edits
    that each seem to help push the decision in one direction together. Measured on MiniLM/SST-2 at
    60% of FLOPs kept: accuracy .883 by KL, .491 by loss.
    """
    prices = situation.prices
    mine = np.flatnonzero(np.isin(prices.kind_of, kinds))
    shares = {kind: prices.decision_shares(kind) for kind in dict.fromkeys(prices.kind_of[mine])}
    candidates = int((~prices.restores[mine]).sum())
    return tuple(
        removal(prices, index, shares[prices.kinds[index]][:, index], rank, candidates)
        for index, rank in _chosen(situation, kinds, budget, mine)
    )


def _chosen(situation: Situation, kinds: Sequence[str], budget: Budget, mine: np.ndarray) -> Iterator[tuple[int, int]]:
    """Components until the goal of this round is reached, each with its rank when it was chosen."""
    prices, room, goal = situation.prices, _room(situation, kinds, budget), _goal(situation, kinds, budget)
    group_of = {index: situation.anatomy.locate(prices.components[index])[0].name for index in mine.tolist()}
    costs = _Costs(prices, budget, {name: mine[[group_of[index] == name for index in mine.tolist()]] for name in room})
    left = mine[~prices.restores[mine]]
    count = flops = 0
    for portion in range(1, costs.portions + 1):
        until = goal.part(portion / costs.portions)
        order = left[np.lexsort((left, costs.now[left] / prices.flops[left]))]  # ties in the order of the anatomy
        taken = list[int]()
        for rank, index in enumerate(order.tolist(), start=count + 1):
            if until.reached(count, flops + int(prices.flops[index])):
                if portion < costs.portions:
                    break
                continue  # something smaller may still fit
            if room[group_of[index]] > 0:
                room[group_of[index]] -= 1
                count += 1
                flops += int(prices.flops[index])
                taken.append(index)
                yield index, rank
        costs.take(taken)
        left = np.setdiff1d(left, taken)


class _Costs:
    """What each component would cost now, given what was chosen from its group before it.

    What two of them do together beyond what each does alone is added. If that is less than nothing it
    is not believed: it would be the sum of many small errors.
    """

    def __init__(self, prices: Prices, budget: Budget, members: dict[str, np.ndarray]) -> None:
        everywhere = prices.slices.index(ALL)
        alone = prices.values[budget.by][everywhere]
        known = not np.isnan(alone).any()  # of language models the softened KL is not known
        self.now = (alone if known else prices.values["kl"][everywhere]).copy()
        self._moves = prices.moves if known and budget.together else None
        self._alone, self._members = self.now.copy(), members
        self._chosen = dict.fromkeys(members, 0.0)  # by group: the sum of the moves of what was chosen

    @property
    def portions(self) -> int:
        """In how many portions to choose, so that the next hears of those before."""
        return 1 if self._moves is None else _PORTIONS

    def take(self, indices: Sequence[int]) -> None:
        """Count these as chosen."""
        if self._moves is None:
            return
        for name, members in self._members.items():
            self._chosen[name] += self._moves[:, members[np.isin(members, indices)]].sum(1)
            beyond = self._chosen[name] @ self._moves[:, members]
            self.now[members] = self._alone[members] + np.maximum(beyond, 0)


@dataclass(frozen=True)
class _Goal:
    count: int | None
    flops: float | None

    def reached(self, chosen: int, flops_with_next: int) -> bool:
        """Whether one more component would go beyond the goal."""
        if self.count is not None:
            return chosen >= self.count
        return self.flops is not None and flops_with_next > self.flops

    def part(self, share: float) -> _Goal:
        """A share of it."""
        count, flops = self.count, self.flops
        return _Goal(None if count is None else round(count * share), None if flops is None else flops * share)


def _goal(situation: Situation, kinds: Sequence[str], budget: Budget) -> _Goal:
    """What this round still has to remove."""
    progress = (situation.round + 1) / budget.rounds
    if budget.share is not None:
        total = sum(group.count for group in situation.anatomy.of_kind(*kinds))
        gone = sum(int(situation.removed[group.name].sum()) for group in situation.anatomy.of_kind(*kinds))
        return _Goal(count=round(total * budget.share * progress) - gone, flops=None)
    assert budget.flops_kept is not None
    saved = situation.anatomy.saved(dict(situation.removed))[1]
    whole, rounds_left = situation.anatomy.flops, budget.rounds - situation.round
    left, wanted = whole - saved, whole * budget.flops_kept
    if budget.proportional:
        return _Goal(count=None, flops=max(0.0, left - left * (wanted / left) ** (1 / rounds_left)))
    return _Goal(count=None, flops=max(0.0, left - wanted) / rounds_left)


def _room(situation: Situation, kinds: Sequence[str], budget: Budget) -> dict[str, int]:
    """How many components each group can lose in this round."""
    room = {}
    for group in situation.anatomy.of_kind(*kinds):
        left = int((~situation.removed[group.name]).sum())
        stay = math.ceil(budget.floor * group.count)
        room[group.name] = min(left - stay, math.ceil(budget.bite * left))
    return room


def removal(prices: Prices, index: int, share: np.ndarray, rank: int, candidates: int) -> Edit:
    """The removal of component ``index``, which was ``rank`` of ``candidates`` and carries a ``share`` of each slice."""
    loss = float(prices.loss_change()[index])
    return Edit(
        component=prices.components[index],
        kind=prices.kinds[index],
        action="remove",
        reason=_reason(prices, index, share, rank, candidates),
        expected_loss_change=loss,
        parameters_saved=int(prices.parameters[index]),
        flops_saved=int(prices.flops[index]),
        work_saved=int(prices.flops[index]),
    )


def _reason(prices: Prices, index: int, share: np.ndarray, rank: int, candidates: int) -> str:
    loss = prices.loss_change()[index]
    text = f"{ordinal(rank)} cheapest of {candidates} per FLOP; expected {loss:+.2g} nats"
    if len(prices.slices) > 1:
        worst = int(np.argmax(share[1:])) + 1
        text += f"; carries {100 * share[worst]:.2g}% of the decision on slice {prices.slices[worst]}"
    return text


def ordinal(number: int) -> str:
    """
    >>> [ordinal(n) for n in (1, 2, 3, 11, 22, 113)]
    ['1st', '2nd', '3rd', '11th', '22nd', '113th']
    """
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
