"""What enters a linear, summed up over tokens: the inputs, and their products with one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass
class Moments:
    """Sums in float64 over ``count`` tokens: ``total`` of the inputs, ``products`` of each two of them."""

    inputs: int
    count: int = 0
    total: Float64[Tensor, " inputs"] | None = None
    products: Float64[Tensor, "inputs inputs"] | None = None

    def add(self, values: Float[Tensor, "tokens inputs"]) -> None:
        total, products = values.double().sum(0), (values.T @ values).double()
        self.total = total if self.total is None else self.total.add_(total)
        self.products = products if self.products is None else self.products.add_(products)
        self.count += len(values)

    @property
    def mean(self) -> Float64[Tensor, " inputs"]:
        """Of the inputs; 0 where the model never ran the linear."""
        return torch.zeros(self.inputs).double() if self.total is None else self.total / self.count

    @property
    def second(self) -> Float64[Tensor, "inputs inputs"]:
        """The mean of the products; 0 where the model never ran the linear."""
        return torch.zeros(self.inputs, self.inputs).double() if self.products is None else self.products / self.count
