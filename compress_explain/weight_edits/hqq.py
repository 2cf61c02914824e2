"""Weights in 4 bits whose zero points are fitted: Half-Quadratic Quantization (Badri and Shaji 2023).

Sought are the zero points for which the error of a group is sparse: a few weights may be far off if the
others are near. That is split into the error itself, shrunk (a proximal step for the norm of order
0.7), and the zero point that fits the weight without it, by turns and ever more tightly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from compress_explain.weight_edits.blocks import check_group
from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import FixedWeight, fixed_weight
from compress_explain.weight_edits.levels import blocks_of, unblocked

_TOP = 15
_FINEST = 2e4  # levels a unit of weight, at most
_ORDER, _TIGHTNESS, _TIGHTER, _TURNS = 0.7, 10.0, 1.01, 20

Groups = Float32[Tensor, "outputs groups group"]
Each = Float32[Tensor, "outputs groups 1"]


@dataclass(frozen=True, kw_only=True)
class Hqq4:
    """Weights in 4 bits, 0 to 15, with a scale and a fitted zero point, both float32, for ``group`` inputs of an output.

    Activations stay as they are.

    Raises:
        InputError: the runtime knows no such group.
    """

    batchwise: ClassVar[bool] = False

    group: int = 32

    def __post_init__(self) -> None:
        check_group(self.name, self.group)

    @property
    def name(self) -> str:
        return f"int4-g{self.group}-hqq"

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        original = finite("weight", weight)
        edited = unblocked(_rounded(blocks_of(original, self.group)), original.shape[1])
        return fixed_weight(original, edited, finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        groups = -(-inputs // self.group)
        return outputs * groups * (self.group // 2 + 4 + 4)

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


def _rounded(weight: Groups) -> Groups:
    low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    width = torch.where(high == low, float(_TOP), high - low)
    fineness = (_TOP / width).clamp(max=_FINEST)  # levels a unit of weight
    zero = _fitted(weight, fineness, (-low * fineness).round())
    return (_levels(weight, fineness, zero) - zero) * (1 / fineness)


def _fitted(weight: Groups, fineness: Each, zero: Each) -> Each:
    """The zero points of the last turn that made the mean error smaller, and of the turn that found it did not."""
    tightness, least = _TIGHTNESS, 1e4
    for _ in range(_TURNS):
        levels = _levels(weight, fineness, zero)
        error = weight - (levels - zero) / fineness
        zero = (levels - (weight - _shrunk(error, tightness)) * fineness).mean(-1, keepdim=True)
        tightness *= _TIGHTER
        now = float(error.abs().mean())
        if now >= least:
            break
        least = now
    return zero


def _levels(weight: Groups, fineness: Each, zero: Each) -> Groups:
    return (weight * fineness + zero).round().clamp(0, _TOP)


def _shrunk(error: Groups, tightness: float) -> Groups:
    size = error.abs()
    return error.sign() * (size - (size + 1e-8).pow(_ORDER - 1) / tightness).relu()
