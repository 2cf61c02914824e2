"""A linear that was given another weight and nothing else: its output changes by ``x (W' - W)ᵀ``."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from compress_explain.weight_edits.finite import finite


@dataclass(frozen=True, kw_only=True)
class FixedWeight:
    """A linear with ``weight`` in place of its own; ``difference`` is the new weight minus the old one.

    Inputs of any floating type are taken to float32 first.
    """

    weight: Float32[Tensor, "outputs inputs"] = field(repr=False)
    bias: Float32[Tensor, " outputs"] | None = field(repr=False)
    difference: Float32[Tensor, "outputs inputs"] = field(repr=False)

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """The output of the edited linear, bias included."""
        return functional.linear(x.float(), self.weight, self.bias)

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What the edit adds to the output. It follows from ``x`` alone: ``y`` already holds the rest."""
        return functional.linear(x.float(), self.difference)


def fixed_weight(
    original: Float32[Tensor, "outputs inputs"],
    edited: Float32[Tensor, "outputs inputs"],
    bias: Float32[Tensor, " outputs"] | None,
) -> FixedWeight:
    """The linear with its weight replaced.

    Raises:
        InputError: the edit took a weight beyond the range of float32.
    """
    return FixedWeight(weight=finite("edited weight", edited), bias=bias, difference=edited - original)
