"""Choosing the linears that are factored, and the rank of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from compress_explain.choosing.budget import Budget
from compress_explain.choosing.meters import taken
from compress_explain.choosing.ranking import amount, ordinal
from compress_explain.data.examples import ALL, Examples
from compress_explain.editing.edits import Edit, Plan
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation
from compress_explain.pricing import Candidate, Prices, tried
from compress_explain.weight_edits import LowRank, weight_edit


def factored_facts(
    masks: Masks,
    examples: Examples,
    plan: Plan,
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> pd.DataFrame:
    """One row a linear that ``plan`` factors: its rank, and what that was expected to do and did, alone, on ``examples``.

    ``energy_kept`` is the share of what it gives that the rank keeps, in mean square on calibration; loss changes are in nats.
    ``advance`` is told the rows done, of ``len(examples)`` for each.
    """
    edits = [edit for edit in plan.edits if edit.action == "factorize"]
    trials = [Candidate(component=edit.component, kind="linear", edit=edit.into) for edit in edits]
    observed = tried(masks, examples, trials, batch_size=batch_size, advance=advance)
    table = []
    for edit, change in zip(edits, observed.tolist(), strict=True):
        name, rank = edit.component, _rank(edit.into)
        outputs, inputs = masks.anatomy.shape_left(name, masks.removed)
        known = masks.spectra.get(name)
        table.append({
            "component": name, "rank": rank, "full_rank": min(outputs, inputs), "outputs": outputs, "inputs": inputs,
            "energy_kept": np.nan if known is None or rank is None else known.kept(rank),
            "expected_loss_change": edit.expected_loss_change, "observed_loss_change": change, "n": len(examples),
        })  # fmt: skip
    return pd.DataFrame(table)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A rank that a linear could have: its column in the prices, and what it saves in the units of the budget."""

    index: int
    linear: str
    rank: int
    saves: float


def factored(situation: Situation, budget: Budget) -> tuple[Edit, ...]:
    """The linears and ranks that meet the budget, the cheapest expected KL for what they save, taken step by step.

    A step gives one linear a rank, or a smaller one than it was given before; what it costs is counted with what was
    chosen elsewhere. The last linear gets the largest rank that still meets the budget.

    Raises:
        InputError: it cannot be met with the ranks on offer.
    """
    offers = _offers(situation, budget)
    meter = budget.meter(situation)
    now, wanted = taken(meter, situation.removed, situation.anatomy), budget.wanted(situation)
    if now <= wanted + _ROUNDING:
        return ()
    _refuse_out_of_reach(offers, now, wanted, meter.unit, meter.original)
    order = _chosen(_Costs(situation.unfamiliar or situation.prices, offers), offers, now - wanted)
    return tuple(
        _edit(situation, each, f"{ordinal(place)} cheapest of {len(order)} per {meter.unit}")
        for place, each in enumerate(order, start=1)
    )


_ROUNDING = 0.5  # what is counted comes in whole numbers


def _offers(situation: Situation, budget: Budget) -> list[Offer]:
    prices, meter, found = situation.prices, budget.meter(situation), list[Offer]()
    for index, (name, edit) in enumerate(zip(prices.components, map(_rank, prices.edits), strict=True)):
        if edit is not None:
            left = situation.anatomy.linear_left(name, situation.removed)
            found.append(Offer(index=index, linear=name, rank=edit, saves=meter.thinner(left, edit)))
    return found


def _rank(edit: str) -> int | None:
    made = None if edit in ("remove", "restore") else weight_edit(edit)
    return made.rank if isinstance(made, LowRank) else None


def _refuse_out_of_reach(offers: Sequence[Offer], now: float, wanted: float, unit: str, original: float) -> None:
    most: dict[str, float] = {}
    for each in offers:
        most[each.linear] = max(most.get(each.linear, 0.0), each.saves)
    left = now - sum(most.values())
    if left > wanted + _ROUNDING:
        raise InputError(
            "budget", f"{amount(wanted)} {unit}s",
            f"out of reach: {amount(left)} of {amount(original)} stay when every linear has the smallest rank on offer",
            "ask for less, offer smaller ranks, or remove heads and neurons first",
        )  # fmt: skip


class _Costs:
    """What offers cost in expected KL, given what was chosen for other linears.

    What they do together beyond what each does alone is added, where the prices tell; if that is less than
    nothing it is not believed: it would be the sum of many small errors.
    """

    def __init__(self, prices: Prices, offers: Sequence[Offer]) -> None:
        everywhere = prices.slices.index(ALL)
        columns = [each.index for each in offers]
        soft = prices.values["soft_kl"][everywhere][columns]
        known = not np.isnan(soft).any()  # of language models it is not
        self.alone = soft if known else prices.values["kl"][everywhere][columns]
        moves = prices.moves[:, columns].astype(np.float64) if known and prices.moves is not None else None
        self._together = np.zeros((len(offers), len(offers))) if moves is None else moves.T @ moves
        names = {name: place for place, name in enumerate(dict.fromkeys(each.linear for each in offers))}
        owner = np.array([names[each.linear] for each in offers])
        self._together[owner[:, None] == owner[None]] = 0.0  # a linear has one rank

    def beside(self, chosen: Sequence[int]) -> np.ndarray:
        """Of every offer, beside those that were chosen of other linears."""
        return self.alone + np.maximum(self._together[list(chosen)].sum(0), 0.0)  # type: ignore[no-any-return]


def _chosen(costs: _Costs, offers: Sequence[Offer], need: float) -> list[Offer]:
    """By position of the offers: one for each linear that is factored, those that cost least for what they save first."""
    linears = np.array([each.linear for each in offers])
    saves = np.array([each.saves for each in offers])
    chosen: dict[str, int] = {}
    last = ""
    while sum(saves[index] for index in chosen.values()) < need - _ROUNDING:
        now = costs.beside(list(chosen.values()))
        paid = np.array([now[chosen[name]] if name in chosen else 0.0 for name in linears])
        saved = np.array([saves[chosen[name]] if name in chosen else 0.0 for name in linears])
        more = saves - saved
        per_unit = np.where(more > 0, (now - paid) / np.where(more > 0, more, 1.0), np.inf)
        best = int(np.argmin(per_unit))
        last = offers[best].linear
        chosen[last] = best
    others = sum(saves[index] for name, index in chosen.items() if name != last)
    enough = [index for index in np.flatnonzero(linears == last).tolist() if others + saves[index] >= need - _ROUNDING]
    chosen[last] = min(enough, key=lambda index: saves[index])
    final = costs.beside(list(chosen.values()))
    return [offers[index] for index in sorted(chosen.values(), key=lambda index: (final[index] / saves[index], index))]


def _edit(situation: Situation, offer: Offer, place: str) -> Edit:
    prices = situation.prices
    loss = float(prices.loss_change()[offer.index])
    outputs, inputs = situation.anatomy.shape_left(offer.linear, situation.removed)
    known = situation.spectra.get(offer.linear)
    kept = "" if known is None else f"; keeps {known.kept(offer.rank):.2%} of what it gives, in mean square"
    return Edit(
        component=offer.linear,
        kind="linear",
        action="factorize",
        reason=f"{place}; rank {offer.rank} of {min(outputs, inputs)}{kept}; expected {loss:+.2g} nats",
        expected_loss_change=loss,
        parameters_saved=int(prices.parameters[offer.index]),
        flops_saved=int(prices.flops[offer.index]),
        into=prices.edits[offer.index],
        work_saved=int(prices.flops[offer.index]),
    )
