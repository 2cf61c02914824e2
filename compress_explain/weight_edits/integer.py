"""Weights as whole numbers times a scale, rounded as ONNX Runtime's own quantizers round them.

Scales are stored as float32. Where a scale would fall below the smallest normal float32, as for
weights that are all zero, everything under it becomes zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from compress_explain.errors import InputError
from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import FixedWeight, fixed_weight

_TINY = torch.finfo(torch.float32).tiny
_GROUPS = (16, 32, 64, 128, 256)  # the block sizes of MatMulNBits


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
        scale = _scale(largest if self.scales == "channel" else largest.amax())
        return fixed_weight(original, _int8(original, scale) * scale, finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs + _BYTES_OF_SCALE * (outputs if self.scales == "channel" else 1)

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
        scale = _scale(original.abs().amax(dim=1))
        return DynamicInt8Linear(levels=_int8(original, scale[:, None]), scale=scale, bias=finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs + _BYTES_OF_SCALE * outputs

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


@dataclass(frozen=True, kw_only=True)
class Int4:
    """Weights in 4 bits, 0 to 15, with a scale and a zero point for every ``group`` inputs of an output.

    What ONNX Runtime's ``MatMulNBits`` quantizer does unless told otherwise: asymmetric, zero always
    within the range, ties to the larger level. The last group of a row may be short, but is stored in
    full. Activations stay as they are.

    Raises:
        InputError: the runtime knows no such group.
    """

    batchwise: ClassVar[bool] = False

    group: int = 32

    def __post_init__(self) -> None:
        if self.group not in _GROUPS:
            known = ", ".join(map(str, _GROUPS))
            raise InputError("edits", self.name, "the runtime knows no such group", f"choose one of: {known}")

    @property
    def name(self) -> str:
        return f"int4-g{self.group}"

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        original = finite("weight", weight)
        inputs = original.shape[1]
        padded = functional.pad(original, (0, -inputs % self.group))
        edited = _int4(padded.unflatten(1, (-1, self.group))).flatten(1)[:, :inputs]
        return fixed_weight(original, edited.contiguous(), finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        groups = -(-inputs // self.group)
        zero_points = (groups + 1) // 2  # two a byte
        return outputs * (groups * self.group // 2 + 4 * groups + zero_points)

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


_BYTES_OF_SCALE = 4 + 1  # float32, and a zero point that the runtime stores although it is 0


def _scale(largest: Float32[Tensor, "*channels"]) -> Float32[Tensor, "*channels"]:
    """The step between neighbouring 8-bit levels, whose 127th is ``largest``."""
    step = largest.double() / 127
    return torch.where(step < _TINY, 1.0, step).float()


def _int8(
    weight: Float32[Tensor, "outputs inputs"], scale: Float32[Tensor, "*channels"]
) -> Float32[Tensor, "outputs inputs"]:
    """Levels from -127 to 127, ties to even."""
    return (weight / scale).round().clamp(-127, 127)


def _uint8(x: Float32[Tensor, "*shape"]) -> tuple[Float32[Tensor, "*shape"], Float32[Tensor, ""]]:
    """Levels of all activations, their zero point already subtracted, and the scale."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    step = (high - low) / 255
    scale = torch.where(step == 0, 1.0, step)
    zero = (-low / scale).clamp(0, 255).round()
    return ((x / scale).round() + zero).clamp(0, 255) - zero, scale


def _int4(weight: Float32[Tensor, "outputs groups group"]) -> Float32[Tensor, "outputs groups group"]:
    """Each group rounded to 16 evenly spaced values, of which zero is one."""
    low = weight.amin(-1, keepdim=True).clamp(max=0)
    high = weight.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / 15
    scale = torch.where(step < _TINY, 1.0, step)
    zero = _half_up(-low / scale)
    return (_half_up(weight * (1 / scale) + zero) - zero) * scale


def _half_up(levels: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """The nearest whole number from 0 to 15, ties to the larger."""
    within = levels.clamp(0, 15)
    whole = within.floor()
    return whole + (within - whole >= 0.5)
