"""Weights in 8 bits with a scale an output channel or one for the tensor, stored as float32."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import FixedWeight, fixed_weight
from compress_explain.weight_edits.levels import BYTES_OF_SCALE, scale_of, signed_levels, unsigned_levels


@dataclass(frozen=True, kw_only=True)
class Int8:
    """Weights in 8 bits, -127 to 127, symmetric: one scale an output channel or one for the tensor.

    The scale takes the largest magnitude to 127; ties go to the even number. Activations stay as
    they are: the runtime dequantizes the weight and multiplies in float32.
    """

    batchwise: ClassVar[bool] = False

    scales: Literal["channel", "tensor"] = "channel"

    @property
    def name(self) -> str:
        return "int8" if self.scales == "channel" else "int8-tensor"

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        original = finite("weight", weight)
        largest = original.abs().amax(dim=1, keepdim=True)  # (outputs, 1)
        scale = scale_of(largest if self.scales == "channel" else largest.amax())
        return fixed_weight(original, signed_levels(original, scale) * scale, finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs + BYTES_OF_SCALE * (outputs if self.scales == "channel" else 1)

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class Int8Dynamic:
    """Weights as in :class:`Int8`, one scale a channel, and activations in 8 bits too, 0 to 255.

    What ONNX Runtime's ``DynamicQuantizeLinear`` and ``MatMulInteger`` compute. The activations'
    scale and zero point come from the smallest and largest value, and zero, of all that enters the
    linear at once: from the *whole batch*, padding included. One row's output therefore depends on
    the rows beside it, and batches put together differently give different outputs.

    Sums of levels are exact to 2**24 and beyond that as precise as float32, to which the runtime
    rounds its own. On x86 processors without VNNI the runtime may not get that far: there the
    instruction for these sums saturates at 16 bits.
    """

    batchwise: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "int8-dynamic"

    def prepare(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> DynamicInt8Linear:
        original = finite("weight", weight)
        scale = scale_of(original.abs().amax(dim=1))
        return DynamicInt8Linear(levels=signed_levels(original, scale[:, None]), scale=scale, bias=finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs + BYTES_OF_SCALE * outputs

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class DynamicInt8Linear:
    """A linear of 8-bit weights, ``levels`` times ``scale``, that rounds what it is given to 8 bits."""

    levels: Float32[Tensor, "outputs inputs"] = field(repr=False)
    scale: Float32[Tensor, " outputs"] = field(repr=False)
    bias: Float32[Tensor, " outputs"] | None = field(repr=False)

    @property
    def weight(self) -> Float32[Tensor, "outputs inputs"]:
        """The dequantized weight."""
        return self.levels * self.scale[:, None]

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """The output of the edited linear, bias included, for ``x`` as one batch."""
        levels, scale = _uint8(x.float())
        product = functional.linear(levels, self.levels) * (scale * self.scale)
        return product if self.bias is None else product + self.bias

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What the edit adds to the output ``y`` of the original linear, for ``x`` as one batch."""
        return self.apply(x) - y.float()


def _uint8(x: Float32[Tensor, "*shape"]) -> tuple[Float32[Tensor, "*shape"], Float32[Tensor, ""]]:
    """Levels of all activations, their zero point already subtracted, and the scale."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    step = (high - low) / 255
    scale = torch.where(step == 0, 1.0, step)
    zero = (-low / scale).clamp(0, 255).round()
    return unsigned_levels(x, scale, zero), scale
