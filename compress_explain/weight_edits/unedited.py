"""A linear as it is, for what is expected of taking an edit of its weight back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from compress_explain.weight_edits.finite import finite, finite_bias


@dataclass(frozen=True, kw_only=True)
class Unedited:
    """The weight that is there, in full; or the linear's ``own`` and its bias, where two others stand in its place."""

    batchwise: ClassVar[bool] = False

    own: Float[Tensor, "outputs inputs"] | None = field(default=None, repr=False)
    own_bias: Float[Tensor, " outputs"] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "float32"

    def prepare(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> UneditedLinear:
        if self.own is not None:
            weight, bias = self.own, self.own_bias
        return UneditedLinear(weight=finite("weight", weight), bias=finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return 4 * outputs * inputs

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


@dataclass(frozen=True, kw_only=True)
class UneditedLinear:
    """The linear in float32."""

    weight: Float32[Tensor, "outputs inputs"] = field(repr=False)
    bias: Float32[Tensor, " outputs"] | None = field(repr=False)

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """Its output, bias included."""
        return functional.linear(x.float(), self.weight, self.bias)

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What it adds to the output ``y`` that the linear gave under an edit."""
        return self.apply(x) - y.float()
