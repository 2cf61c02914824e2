"""A weight as the product of two thin ones: the nearest of its rank (Eckart and Young, 1936)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from compress_explain.errors import InputError
from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import FixedWeight, fixed_weight


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """``W ≈ (U √S) (√S V)`` with the ``rank`` largest singular values; the factors are stored as float32.

    Smaller than the original where ``rank`` is below ``outputs * inputs / (outputs + inputs)``.

    Raises:
        InputError: ``rank`` is not positive, or (of every method) above what the weight can have.
    """

    batchwise: ClassVar[bool] = False

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError("edits", self.name, "there is no such rank", "choose a rank of at least 1")

    @property
    def name(self) -> str:
        return f"rank{self.rank}"

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        left, right = self.factors(weight)
        return fixed_weight(finite("weight", weight), left @ right, finite_bias(bias))

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
