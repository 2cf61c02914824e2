"""Weights in a floating-point format of fewer bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import FixedWeight, fixed_weight

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TINY = torch.finfo(torch.float32).tiny
_LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448


@dataclass(frozen=True, kw_only=True)
class Fp8:
    """Weights in 8-bit floating point (e4m3fn), with a float32 scale an output channel.

    The scale takes a channel's largest magnitude to 448, the format's largest; ties go to even.
    Activations are *not* quantized: the weight is dequantized and multiplied in float32.
    """

    batchwise: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "fp8"

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        original = finite("weight", weight)
        step = original.abs().amax(dim=1, keepdim=True) / _LARGEST
        scale = torch.where(step < _TINY, 1.0, step)  # (outputs, 1); a channel of zeros stays one
        rounded = (original / scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
        return fixed_weight(original, rounded.float() * scale, finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs + 4 * outputs

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class HalfPrecision:
    """The linear in 16 bits: weight, bias, input and output rounded to ``format``, sums in float32.

    As the runtime computes it, which rounds once, after the bias is added. In ``fp16`` an input or
    output beyond 65504 becomes infinite, there as here.
    """

    batchwise: ClassVar[bool] = False

    format: Literal["bf16", "fp16"]

    @property
    def name(self) -> str:
        return self.format

    def prepare(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> HalfPrecisionLinear:
        original, own = finite("weight", weight), finite_bias(bias)
        dtype = _DTYPES[self.format]
        return HalfPrecisionLinear(
            weight=finite(f"weight in {self.format}", original.to(dtype)),
            bias=None if own is None else finite(f"bias in {self.format}", own.to(dtype)),
            dtype=dtype,
        )

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class HalfWeight:
    """Weights stored in 16 bits and multiplied in float32; bias and activations stay as they are."""

    batchwise: ClassVar[bool] = False

    format: Literal["bf16", "fp16"]

    @property
    def name(self) -> str:
        return f"{self.format}-weight"

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        original = finite("weight", weight)
        narrowed = finite(f"weight in {self.format}", original.to(_DTYPES[self.format]))
        return fixed_weight(original, narrowed, finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class HalfPrecisionLinear:
    """A linear that rounds what it is given and what it gives to ``dtype``, as its weight and bias already are."""

    weight: Float32[Tensor, "outputs inputs"] = field(repr=False)
    bias: Float32[Tensor, " outputs"] | None = field(repr=False)
    dtype: torch.dtype

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """The output of the edited linear, bias included."""
        return functional.linear(x.to(self.dtype).float(), self.weight, self.bias).to(self.dtype).float()

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What the edit adds to the output ``y`` of the original linear."""
        return self.apply(x) - y.float()
