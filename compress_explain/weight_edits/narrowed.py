"""An edited linear some of whose inputs are gone: it was edited without them."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float, Float32, Int
from torch import Tensor

from compress_explain.weight_edits.weight_edit import Prepared


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """``prepared`` is for the inputs that are ``kept``, by index, of ``inputs``; blocks of them are blocks of what is left."""

    kept: Int[Tensor, " kept"] = field(repr=False)
    inputs: int
    prepared: Prepared

    @property
    def weight(self) -> Float32[Tensor, "outputs inputs"]:
        """The weight in the places that it had, zero where an input is gone."""
        narrow = self.prepared.weight
        wide = narrow.new_zeros(len(narrow), self.inputs)
        wide[:, self.kept] = narrow
        return wide

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """The output of the edited linear, bias included."""
        return self.prepared.apply(x[..., self.kept])

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What the edit adds to the output ``y`` of the original linear."""
        return self.prepared.delta(x[..., self.kept], y)
