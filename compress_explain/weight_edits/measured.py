"""Edits that depend on what enters a linear, which is found once on calibration rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from jaxtyping import Float32, Int
from torch import Tensor

from compress_explain.errors import InputError
from compress_explain.weight_edits.weight_edit import WeightEdit


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What entered one linear on calibration rows.

    ``low`` and ``high`` are the range that is rounded, of the inputs divided by ``divisor`` where there is one;
    ``products`` the mean products of the inputs with one another, where they are asked for.
    """

    low: float
    high: float
    divisor: Float32[Tensor, " inputs"] | None = field(default=None, repr=False)
    products: Float32[Tensor, "inputs inputs"] | None = field(default=None, repr=False)

    def of(self, kept: Int[Tensor, " kept"]) -> Activations:
        """The same where only some of the inputs, by index, are left."""
        if self.divisor is None and self.products is None:
            return self
        divisor = None if self.divisor is None else self.divisor[kept]
        products = None if self.products is None else self.products[kept][:, kept]
        return replace(self, divisor=divisor, products=products)


Found = Mapping[str, Activations]  # by linear


@runtime_checkable
class Measured(Protocol):
    """An edit that wants to know what enters the linear before it is prepared."""

    def knowing(self, activations: Activations) -> WeightEdit:
        """The edit of one linear, which these activations enter."""
        ...


def knowing(edit: WeightEdit, activations: Activations | None) -> WeightEdit:
    """``edit`` as it is to be made on a linear that ``activations`` enter; most edits do not ask for them."""
    return edit.knowing(activations) if isinstance(edit, Measured) and activations is not None else edit


def not_measured(name: str) -> InputError:
    """The complaint of an edit that was prepared without activations."""
    return InputError(
        "edits", name, "needs to know what enters the linear", "find activations on calibration rows first"
    )
