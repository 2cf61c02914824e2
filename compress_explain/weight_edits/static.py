"""Weights and activations in 8 bits, the activations in a range that was found beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.levels import BYTES_OF_SCALE, TINY, scale_of, signed_levels, unsigned_levels
from compress_explain.weight_edits.measured import Activations, not_measured


@dataclass(frozen=True, kw_only=True)
class Int8Static:
    """Weights as in ``int8``, one scale an output, and activations 0 to 255 in a range that does not move.

    What ``QuantizeLinear`` and ``MatMulInteger`` compute. What lies beyond the range becomes its end.
    Zero is always in it. Where the activations come with a divisor they are divided by it first, input
    by input, and the weight multiplied (SmoothQuant, arXiv:2211.10438, equation 3). A row's output
    does not depend on the rows beside it.

    Raises:
        InputError: on preparing it without activations.
    """

    batchwise: ClassVar[bool] = False

    activations: Activations | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "int8-static"

    def knowing(self, activations: Activations) -> Int8Static:
        """The edit of a linear that these activations enter."""
        return Int8Static(activations=activations)

    def prepare(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> StaticInt8Linear:
        if self.activations is None:
            raise not_measured(self.name)
        original, divisor = finite("weight", weight), self.activations.divisor
        moved = original if divisor is None else original * divisor
        scale = scale_of(moved.abs().amax(dim=1))
        step, zero = _range(self.activations)
        return StaticInt8Linear(
            levels=signed_levels(moved, scale[:, None]),
            scale=scale,
            bias=finite_bias(bias),
            step=step,
            zero=zero,
            factor=None if divisor is None else 1 / divisor,
        )

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs + BYTES_OF_SCALE * outputs

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class StaticInt8Linear:
    """A linear of 8-bit weights that multiplies what it is given by ``factor`` and rounds it by ``step`` around ``zero``."""

    levels: Float32[Tensor, "outputs inputs"] = field(repr=False)
    scale: Float32[Tensor, " outputs"] = field(repr=False)
    bias: Float32[Tensor, " outputs"] | None = field(repr=False)
    step: Float32[Tensor, ""]
    zero: Float32[Tensor, ""]
    factor: Float32[Tensor, " inputs"] | None = field(repr=False)

    @property
    def weight(self) -> Float32[Tensor, "outputs inputs"]:
        """The dequantized weight, in the inputs as they come."""
        moved = self.levels * self.scale[:, None]
        return moved if self.factor is None else moved * self.factor

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """The output of the edited linear, bias included."""
        narrowed = x.float() if self.factor is None else x.float() * self.factor
        levels = unsigned_levels(narrowed, self.step, self.zero)
        product = functional.linear(levels, self.levels) * (self.step * self.scale)
        return product if self.bias is None else product + self.bias

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What the edit adds to the output ``y`` of the original linear."""
        return self.apply(x) - y.float()


def _range(activations: Activations) -> tuple[Float32[Tensor, ""], Float32[Tensor, ""]]:
    """The step of the activations' levels and their zero point."""
    low, high = min(activations.low, 0.0), max(activations.high, 0.0)
    step = (high - low) / 255
    if step < TINY:
        return torch.tensor(1.0), torch.tensor(0.0)
    return torch.tensor(step, dtype=torch.float32), torch.tensor(float(round(-low / step)))
