"""What an edit of one linear's weight is: from the linear's input x, output y and weight W to a change of y.

A linear computes ``y = x Wᵀ + b``. Quantizing or factorizing it leaves its place in the model alone
and only changes ``y``, so the change is all that the rest of the model has to hear of.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Float32
from torch import Tensor


@runtime_checkable
class Prepared(Protocol):
    """One linear with its edit made, ready for any number of inputs. Everything that it returns is float32."""

    @property
    def weight(self) -> Float32[Tensor, "outputs inputs"]:
        """The weight as the runtime would use it: dequantized, or the product of the factors."""
        ...

    def apply(self, x: Float[Tensor, "*batch inputs"]) -> Float32[Tensor, "*batch outputs"]:
        """The output of the edited linear, bias included."""
        ...

    def delta(
        self, x: Float[Tensor, "*batch inputs"], y: Float[Tensor, "*batch outputs"]
    ) -> Float32[Tensor, "*batch outputs"]:
        """What the edit adds to the output ``y`` that the original linear gave for ``x``."""
        ...


@runtime_checkable
class WeightEdit(Protocol):
    """One way to make a linear smaller or cheaper; a frozen dataclass, and so its own configuration.

    A weight is always ``(outputs, inputs)``: who edits a ``Conv1D`` transposes it first.
    """

    @property
    def name(self) -> str:
        """``int8``, ``int4-g32``, ``rank64``: what :func:`~compress_explain.weight_edits.weight_edit` reads."""
        ...

    @property
    def batchwise(self) -> bool:
        """Whether what the edit does to one row depends on the rows beside it."""
        ...

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> Prepared:
        """Edit one linear, given its ``bias`` if it has one. Its tensors are read and never written to.

        Raises:
            InputError: a value is not a finite number, or the edit does not fit the weight's shape.
        """
        ...

    def bytes_of(self, outputs: int, inputs: int) -> int:
        """Bytes in which the edited weight is stored, with scales and zero points and without the bias."""
        ...

    def parameters_of(self, outputs: int, inputs: int) -> int:
        """Numbers that make up the edited weight; quantization leaves them as many as they were."""
        ...

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        """FLOPs of the edited linear, two per multiply-add; quantization leaves them as many as they were."""
        ...
