"""An edit of a linear that two others stand in the place of: it is made on both."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Float32
from torch import Tensor

from compress_explain.weight_edits.weight_edit import Prepared


@dataclass(frozen=True, kw_only=True)
class Twice:
    """``second`` reads what ``first`` gives."""

    first: Prepared
    second: Prepared

    @property
    def weight(self) -> Float32[Tensor, "outputs inputs"]:
        """The product of the two."""
        return self.second.weight @ self.first.weight

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """The output of the edited linears, bias included."""
        return self.second.apply(self.first.apply(x))

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What the edit adds to the output ``y`` of the linears without it."""
        return self.apply(x) - y.float()
