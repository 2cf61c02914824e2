"""Compute linears of the deployed file in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress_explain.edits import Edit
from compress_explain.errors import InputError
from compress_explain.examples import ALL
from compress_explain.pricing import Prices
from compress_explain.ranking import ordinal
from compress_explain.strategy import Situation

if TYPE_CHECKING:
    from compress_explain.deployment.int8 import Int8Dynamic as Scheme


@dataclass(frozen=True, kw_only=True)
class Int8Dynamic:
    """Quantize linears to 8 bits, weights beforehand and activations while running, and deploy with ONNX Runtime.

    The linears whose rounding is expected to cost most KL per FLOP stay in float32, as many as make
    up ``float_kept`` of the FLOPs of all linears, in [0, 1). ``embeddings`` is the bits of the
    embedding tables: 32, 8 or 4. When repairs are weighed against one another, a linear in 8 bits is
    taken to be ``speedup`` times as fast as in float32.
    """

    float_kept: float = 0.0
    embeddings: int = 8
    speedup: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.float_kept < 1:
            raise InputError("strategies: int8_dynamic.float_kept", self.float_kept, "lies outside [0, 1)", "try 0.1")
        if self.embeddings not in (32, 8, 4):
            raise InputError("strategies: int8_dynamic.embeddings", self.embeddings, "no such bits", "give 32, 8 or 4")
        if not 1 <= self.speedup <= 100:
            raise InputError("strategies: int8_dynamic.speedup", self.speedup, "lies outside [1, 100]", "try 3")

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("linear",)

    @property
    def rounds(self) -> int:
        return 1

    @property
    def weight_edit(self) -> str:
        return "int8-dynamic"

    @property
    def scheme(self) -> Scheme:
        from compress_explain.deployment.int8 import Int8Dynamic as Scheme  # which takes a second to import

        return Scheme(embeddings=self.embeddings)  # type: ignore[arg-type]

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        prices = situation.prices
        linears = np.flatnonzero(prices.kind_of == "linear").tolist()
        left = {index: situation.flops_left(prices.components[index]) for index in linears}
        flops = {index: value for index, value in left.items() if value > 0}
        cost = prices.values["kl"][prices.slices.index(ALL)]
        order = sorted(flops, key=lambda index: (cost[index] / flops[index], index))
        room = (1 - self.float_kept) * sum(flops.values())
        edits = []
        for rank, index in enumerate(order, start=1):
            room -= flops[index]
            if room < -0.5:  # FLOPs are whole numbers
                break
            edits.append(_edit(prices, int(index), rank, len(order), round(flops[index] * (1 - 1 / self.speedup))))
        return tuple(edits)


def _edit(prices: Prices, index: int, rank: int, count: int, work: int) -> Edit:
    loss = float(prices.loss_change()[index])
    return Edit(
        component=prices.components[index],
        kind="linear",
        action="quantize",
        reason=f"{ordinal(rank)} cheapest of {count} per FLOP; expected {loss:+.2g} nats; "
        f"{int(prices.bytes[index]):,} bytes less",
        expected_loss_change=loss,
        parameters_saved=0,
        flops_saved=0,
        into=prices.edits[index],
        work_saved=work,
    )
