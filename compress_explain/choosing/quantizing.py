"""Choosing the linears that are quantized: what the quantizing strategies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress_explain.choosing.ranking import ordinal
from compress_explain.data.examples import ALL
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.plugins.strategy import Situation
from compress_explain.pricing import Prices

EMBEDDINGS = (32, 8, 4)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A linear that could be quantized: its column in the prices, its FLOPs, and those that it would be faster by."""

    index: int
    flops: float
    work: float


def offers(situation: Situation, edit: str, speedup: float) -> list[Offer]:
    """Every linear that is there and in float32, the cheapest expected KL per saved work first."""
    prices = situation.prices
    columns = [index for index, name in enumerate(prices.edits) if name == edit and prices.kinds[index] == "linear"]
    left = {index: situation.flops_left(prices.components[index]) for index in columns}
    found = [
        Offer(index=index, flops=flops, work=flops * (1 - 1 / speedup)) for index, flops in left.items() if flops > 0
    ]
    cost = prices.values["kl"][prices.slices.index(ALL)]
    return sorted(found, key=lambda each: (cost[each.index] / each.work, each.index))


def all_but(situation: Situation, weight_edits: Mapping[str, float], float_kept: float) -> tuple[Edit, ...]:
    """Quantize the cheapest linears, until the others make up ``float_kept`` of the FLOPs of all."""
    [(edit, speedup)] = weight_edits.items()
    order = offers(situation, edit, speedup)
    room = (1 - float_kept) * sum(each.flops for each in order)
    chosen = list[Offer]()
    for each in order:
        room -= each.flops
        if room < -0.5:  # FLOPs are whole numbers
            break
        chosen.append(each)
    return quantized(situation.prices, chosen, len(order))


def quantized(prices: Prices, chosen: Sequence[Offer], count: int) -> tuple[Edit, ...]:
    """The edits that quantize these linears, of ``count`` that were offered, the cheapest first."""
    return tuple(
        quantize(prices, each, f"{ordinal(rank)} cheapest of {count} per FLOP")
        for rank, each in enumerate(chosen, start=1)
    )


def quantize(prices: Prices, offer: Offer, why: str) -> Edit:
    """The edit that quantizes one linear."""
    loss = float(prices.loss_change()[offer.index])
    return Edit(
        component=prices.components[offer.index],
        kind="linear",
        action="quantize",
        reason=f"{why}; expected {loss:+.2g} nats; {int(prices.bytes[offer.index]):,} bytes less",
        expected_loss_change=loss,
        parameters_saved=0,
        flops_saved=0,
        into=prices.edits[offer.index],
        work_saved=round(offer.work),
    )


def joint_kl(prices: Prices, indices: Sequence[int]) -> float:
    """KL in nats, mean per example, that is expected of all these edits together.

    The sum of theirs, times what their moves on softened predictions come to together over what they come
    to one by one: edits that move the same rows the same way cost more than their sum. The sum alone where
    the prices hold no moves.
    """
    chosen = np.array(indices, dtype=int)
    alone = float(prices.values["kl"][prices.slices.index(ALL)][chosen].sum())
    if prices.moves is None or not len(chosen):
        return alone
    moves = prices.moves[:, chosen].astype(np.float64)
    apart = float(np.square(moves).sum())
    return alone * float(np.square(moves.sum(1)).sum()) / apart if apart > 0 else alone


def check_options(strategy: str, *, float_kept: float, embeddings: object, speedup: float | None = None) -> None:
    """Raises InputError for an option, shared by quantizing strategies, that is out of range."""
    if isinstance(float_kept, bool) or not 0 <= float_kept < 1:
        raise InputError(f"strategies: {strategy}.float_kept", float_kept, "lies outside [0, 1)", "try 0.1")
    if isinstance(embeddings, bool) or embeddings not in EMBEDDINGS:
        raise InputError(f"strategies: {strategy}.embeddings", embeddings, "no such bits", "give 32, 8 or 4")
    if speedup is not None and not 1 < speedup <= 100:
        raise InputError(f"strategies: {strategy}.speedup", speedup, "lies outside (1, 100]", "try 3")
