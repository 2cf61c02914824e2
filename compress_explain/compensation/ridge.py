"""Ridge regression from streamed moments, pulled towards the weights that are there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

_FREE = 1e-9  # of the penalty of a weight: what the intercept pays, so that the system can always be solved


@dataclass
class Moments:
    """Sums over tokens of the products of inputs and targets; with ``intercept`` a constant is the last input."""

    intercept: bool
    count: int = 0
    gram: Float64[Tensor, "inputs inputs"] | None = None
    cross: Float64[Tensor, "inputs outputs"] | None = None
    power: float = 0.0  # of the targets: the sum of their squares

    def add(self, inputs: Float[Tensor, "tokens inputs"], targets: Float[Tensor, "tokens outputs"]) -> None:
        if self.intercept:
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        gram, cross = (inputs.T @ inputs).double(), (inputs.T @ targets).double()
        if self.gram is None or self.cross is None:
            self.gram, self.cross = gram, cross
        else:
            self.gram += gram
            self.cross += cross
        self.count += len(inputs)
        self.power += float(targets.double().square().sum())

    def fit(self, start: Float[Tensor, "inputs outputs"], ridge: float) -> Float64[Tensor, "inputs outputs"]:
        """The weights with the least squared error plus the squared distance from ``start``.

        ``ridge`` is the price of distance in units of the mean square of an input; the intercept is free.
        """
        assert self.gram is not None and self.cross is not None, "moments of no tokens"
        weights = len(start) - self.intercept
        size = self.gram.diagonal()[:weights].sum() / max(1, weights)
        penalty = ridge * size.clamp(min=1e-12) * torch.ones(len(start), dtype=torch.float64)
        if self.intercept:
            penalty[-1] *= _FREE
        factor = torch.linalg.cholesky(self.gram + torch.diag(penalty))
        missing = self.cross - self.gram @ start.double()
        return start.double() + torch.cholesky_solve(missing, factor)

    def missing(self, weights: Float[Tensor, "inputs outputs"]) -> float:
        """The squared error of ``weights`` as a share of the power of the targets."""
        assert self.gram is not None and self.cross is not None, "moments of no tokens"
        weights = weights.double()
        explained = 2 * (weights * self.cross).sum() - (weights * (self.gram @ weights)).sum()
        return max(0.0, 1 - float(explained) / max(self.power, 1e-30))
