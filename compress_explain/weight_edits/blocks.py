"""Weights in 4 or 8 bits, a scale and a zero point for some inputs of an output: what ``MatMulNBits`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from compress_explain.errors import InputError
from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import FixedWeight, fixed_weight
from compress_explain.weight_edits.levels import blocks_of, evenly_spaced, unblocked

_GROUPS = (16, 32, 64, 128, 256)  # the block sizes of MatMulNBits


def check_group(name: str, group: int) -> None:
    """Raises InputError where the runtime knows no such group."""
    if group not in _GROUPS:
        known = ", ".join(map(str, _GROUPS))
        raise InputError("edits", name, "the runtime knows no such group", f"choose one of: {known}")


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Weights in ``bits``, 4 or 8, with a scale and a zero point for every ``group`` inputs of an output.

    What ONNX Runtime's ``MatMulNBits`` quantizer does unless told otherwise: levels from 0 up, asymmetric,
    zero always within the range, ties to the larger level. The last group of a row may be short, but is
    stored in full. Activations stay as they are.

    Raises:
        InputError: the runtime knows no such group.
    """

    batchwise: ClassVar[bool] = False

    bits: Literal[4, 8]
    group: int = 32

    def __post_init__(self) -> None:
        check_group(self.name, self.group)

    @property
    def name(self) -> str:
        return f"int{self.bits}-g{self.group}"

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        original = finite("weight", weight)
        edited = unblocked(evenly_spaced(blocks_of(original, self.group), 2**self.bits - 1), original.shape[1])
        return fixed_weight(original, edited, finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        groups = -(-inputs // self.group)
        zero_points = -(-groups * self.bits // 8)  # of 4 bits two a byte
        return outputs * (groups * self.group * self.bits // 8 + 4 * groups + zero_points)

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs
