"""A weight taken apart along what enters it, the directions that its output owes most to first.

With C Cᵀ the second moments of the inputs x, the mean square of (W - W') x is the squared Frobenius
norm of (W - W') C. The nearest matrix of a rank is therefore found by a singular value decomposition of
W C, and C is taken out again on the right (SVD-LLM, arXiv:2403.07378, section 3.1; that inputs matter is
also the idea of ASVD, arXiv:2312.05821). Where there is a bias it takes up what would be missing on average, so that
moments about the mean count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from compress_explain.weight_edits.factors import Factors

_RIDGE = 1e-4  # of the mean square of an input, added to that of each: what never varied here may do so elsewhere
_NOTHING = 1e-7  # of the largest singular value; along smaller ones nothing can be told


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """One linear: the product of the first ``r`` columns of ``left`` and rows of ``right`` is its nearest weight of rank r.

    ``energies`` are the mean squares of the output along all directions, the largest first. ``mean`` is that of the inputs, where a
    bias takes up what is missing on average.
    """

    left: Float32[Tensor, "outputs most"] = field(repr=False)
    right: Float32[Tensor, "most inputs"] = field(repr=False)
    energies: Float64[Tensor, " directions"] = field(repr=False)
    mean: Float32[Tensor, " inputs"] | None = field(repr=False)

    def kept(self, rank: int) -> float:
        """The share of the output's mean square that a rank keeps, in [0, 1]."""
        return float(self.energies[:rank].sum() / self.energies.sum().clamp(min=torch.finfo(torch.float64).tiny))

    def factors(
        self, rank: int, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> Factors:
        """The two linears of a rank for the ``weight`` that was taken apart, in its number format; may share memory."""
        left, right = (each.to(weight.dtype) for each in (self.left[:, :rank], self.right[:rank]))
        if bias is None or self.mean is None:
            return Factors(left, right, bias)
        missing = weight.double() @ self.mean.double() - left.double() @ (right.double() @ self.mean.double())
        return Factors(left, right, (bias.double() + missing).to(bias.dtype))


def spectrum_of(
    weight: Float[Tensor, "outputs inputs"],
    moments: Float64[Tensor, "inputs inputs"],
    mean: Float64[Tensor, " inputs"] | None,
    *,
    rows: Int[Tensor, " rows"],
    columns: Int[Tensor, " columns"],
    most: int,
) -> Spectrum:
    """Take apart what is left of a weight, its outputs ``rows`` and inputs ``columns``, up to the rank ``most``.

    ``moments`` are the second moments of its inputs, about the ``mean`` where there is one. The outputs and inputs
    that are gone get what the directions that were found hold of them, for when they come back.
    """
    whole = weight.double()
    moments = moments[columns][:, columns]
    size = moments.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    root = torch.linalg.cholesky(moments + _RIDGE * size * torch.eye(len(columns), dtype=torch.float64))
    outputs, values, inputs = torch.linalg.svd(whole[rows][:, columns] @ root, full_matrices=False)
    found = values[:most]
    half = found.sqrt()
    inverse = torch.where(found > _NOTHING * values[:1], 1 / half, 0.0)
    left = (whole[:, columns] @ root) @ inputs[:most].T * inverse
    left[rows] = outputs[:, :most] * half
    right = inverse[:, None] * (outputs[:, :most].T @ whole[rows])
    right[:, columns] = half[:, None] * torch.linalg.solve_triangular(root, inputs[:most], upper=False, left=False)
    return Spectrum(
        left=left.float(), right=right.float(), energies=values.square(), mean=None if mean is None else mean.float()
    )
