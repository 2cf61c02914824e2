"""Two thin weights in the place of one: what a linear of low rank is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

FIRST_AND_SECOND = (".first", ".second")  # of the two, after the name or the path of the one that they stand for


@dataclass(frozen=True)
class Factors:
    """A linear as two: the right one reads its inputs, the left one makes its outputs of what that gives."""

    left: Float[Tensor, "outputs rank"] = field(repr=False)
    right: Float[Tensor, "rank inputs"] = field(repr=False)
    bias: Float[Tensor, " outputs"] | None = field(repr=False)

    @property
    def rank(self) -> int:
        return len(self.right)

    @cached_property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The one weight that they stand for."""
        return (self.left.float() @ self.right.float()).to(self.left.dtype)

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The output of the two linears, bias included."""
        return functional.linear(functional.linear(x.to(self.right.dtype), self.right), self.left, self.bias)

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float[Tensor, "*batch outputs"]:
        """What they add to the output ``y`` of the linear that they stand for."""
        return self.apply(x).float() - y.float()


def weights_saved(outputs: int, inputs: int, rank: int) -> int:
    """Weights fewer of two linears than of one; 0 where two would not be fewer, for then one is used.

    >>> weights_saved(384, 384, 96), weights_saved(384, 384, 192)
    (73728, 0)
    """
    return max(0, outputs * inputs - rank * (outputs + inputs))


def whole_name(name: str) -> str:
    """The linear that a name stands for, or is a part of.

    >>> whole_name("encoder.layer.0.attention.query.first")
    'encoder.layer.0.attention.query'
    """
    for part in FIRST_AND_SECOND:
        name = name.removesuffix(part)
    return name
