"""A weight as the product of two thin ones: the nearest of its rank.

Nearest is the weight itself (Eckart and Young, 1936), or what it makes of its inputs where these are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from compress_explain.errors import InputError
from compress_explain.weight_edits.factors import Factors
from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import fixed_weight
from compress_explain.weight_edits.spectrum import Spectrum
from compress_explain.weight_edits.weight_edit import Prepared


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """``W ≈ (U √S) (√S V)`` with the ``rank`` largest singular values; the factors are stored as float32.

    Smaller than the original where ``rank`` is below ``outputs * inputs / (outputs + inputs)``. With a
    ``spectrum`` of the weight the output is as near as it can be, in mean square, not the weight.

    Raises:
        InputError: ``rank`` is not positive, or (of every method) above what the weight can have.
    """

    batchwise: ClassVar[bool] = False

    rank: int
    spectrum: Spectrum | None = field(default=None, repr=False)
    before: Factors | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError("edits", self.name, "there is no such rank", "choose a rank of at least 1")

    @property
    def name(self) -> str:
        return f"rank{self.rank}"

    def along(self, spectrum: Spectrum) -> LowRank:
        """The edit of the linear whose weight this is the spectrum of."""
        return replace(self, spectrum=spectrum)

    def as_before(self, factors: Factors) -> LowRank:
        """The edit that makes what was made before."""
        return replace(self, before=factors)

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> Prepared:
        if self.before is not None:
            return self.before
        if self.spectrum is not None:
            self.parameters_of(*weight.shape)
            return self.spectrum.factors(self.rank, finite("weight", weight), finite_bias(bias))
        left, right = self.factors(weight)
        return fixed_weight(finite("weight", weight), left @ right, finite_bias(bias))

    def linears(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> Factors:
        """The two linears that take the place of one, in its number format."""
        self.parameters_of(*weight.shape)
        if self.before is not None:
            found = self.before
        elif self.spectrum is not None:
            found = self.spectrum.factors(self.rank, weight, bias)
        else:
            left, right = self.factors(weight)
            found = Factors(left.to(weight.dtype), right.to(weight.dtype), bias)
        own = None if found.bias is None else found.bias.clone()
        return Factors(found.left.clone(memory_format=torch.contiguous_format), found.right.clone(), own)

    def factors(
        self, weight: Float[Tensor, "outputs inputs"]
    ) -> tuple[Float32[Tensor, "outputs rank"], Float32[Tensor, "rank inputs"]]:
        """The two weights that take the place of one: the left applies to what the right gives."""
        self.parameters_of(*weight.shape)
        left, values, right = torch.linalg.svd(finite("weight", weight), full_matrices=False)
        root = values[: self.rank].sqrt()
        return left[:, : self.rank] * root, root[:, None] * right[: self.rank]

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return 4 * self.parameters_of(outputs, inputs)

    def parameters_of(self, outputs: int, inputs: int) -> int:
        if self.rank > min(outputs, inputs):
            raise InputError(
                "edits",
                self.name,
                f"a weight of {outputs} by {inputs} has no such rank",
                f"choose a rank up to {min(outputs, inputs)}",
            )
        return self.rank * (outputs + inputs)

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * self.parameters_of(outputs, inputs)
