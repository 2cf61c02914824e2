"""The module of a linear of low rank: two linears, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress_explain.weight_edits import Factors, weights_saved


class FactoredLinear(nn.Module):
    """``first`` reads the inputs and gives ``rank`` numbers, ``second`` makes the outputs of them."""

    def __init__(self, inputs: int, rank: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, rank, bias=False)
        self.second = nn.Linear(rank, outputs, bias=bias)

    @classmethod
    def of(cls, factors: Factors) -> FactoredLinear:
        """The module that computes with these weights."""
        outputs, rank = factors.left.shape
        with torch.device("meta"):
            made = cls(factors.right.shape[1], rank, outputs, bias=factors.bias is not None)
        made.first.weight = nn.Parameter(factors.right)
        made.second.weight = nn.Parameter(factors.left)
        made.second.bias = None if factors.bias is None else nn.Parameter(factors.bias)  # type: ignore[assignment]
        return made

    @property
    def weight(self) -> Tensor:
        """That of the second: asked for by models that compute in the number format of the next weight."""
        return self.second.weight.detach()

    @property
    def bias(self) -> nn.Parameter | None:
        return self.second.bias

    @property
    def saves(self) -> bool:
        """Whether it is smaller than one linear."""
        return weights_saved(self.second.out_features, self.first.in_features, self.first.out_features) > 0

    def multiplied_out(self) -> nn.Linear:
        """The one linear that computes the same."""
        with torch.device("meta"):
            made = nn.Linear(self.first.in_features, self.second.out_features, bias=self.bias is not None)
        made.weight = nn.Parameter(Factors(self.second.weight.detach(), self.first.weight.detach(), None).weight)
        made.bias = self.second.bias  # type: ignore[assignment]
        return made

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.second(self.first(hidden_states))  # type: ignore[no-any-return]
