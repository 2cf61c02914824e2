"""Weights in 4 bits, each rounding made up for by the weights that are not rounded yet: GPTQ (arXiv:2210.17323).

Input by input a weight is rounded, and what that changes in the outputs on calibration rows is taken up, in
the sense of least squares, by the weights of the inputs behind it (algorithm 1 there). Scales and zero points are those of
the weights as they were, so that the levels are all that differs from rounding to the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from compress_explain.weight_edits.blocks import Blocks, check_group
from compress_explain.weight_edits.finite import finite, finite_bias
from compress_explain.weight_edits.fixed_weight import FixedWeight, fixed_weight
from compress_explain.weight_edits.levels import blocks_of, grid_of, levels_on
from compress_explain.weight_edits.measured import Activations, not_measured

_TOP = 15
_DAMPING = 0.01  # of the mean square of an input: what keeps inputs that are rarely seen from taking up too much

Levels = Float32[Tensor, "outputs inputs"]


@dataclass(frozen=True, kw_only=True)
class Gptq4:
    """Weights in 4 bits as in ``int4-gN``, with levels that change the outputs on calibration rows least.

    It needs the mean products of a linear's inputs. Activations stay as they are.

    Raises:
        InputError: the runtime knows no such group; on preparing it, nothing is known of the inputs.
    """

    batchwise: ClassVar[bool] = False

    group: int = 32
    activations: Activations | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_group(self.name, self.group)

    @property
    def name(self) -> str:
        return f"int4-g{self.group}-gptq"

    def knowing(self, activations: Activations) -> Gptq4:
        """The edit of a linear that these activations enter."""
        return Gptq4(group=self.group, activations=activations)

    def prepare(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> FixedWeight:
        if self.activations is None or self.activations.products is None:
            raise not_measured(self.name)
        original = finite("weight", weight)
        levels, scale, zero = fed_back(original, self.activations.products, self.group)
        return fixed_weight(original, (levels - zero) * scale, finite_bias(bias))

    def bytes_of(self, outputs: int, inputs: int) -> int:
        return Blocks(bits=4, group=self.group).bytes_of(outputs, inputs)

    def parameters_of(self, outputs: int, inputs: int) -> int:
        return outputs * inputs

    def flops_per_token(self, outputs: int, inputs: int) -> int:
        return 2 * outputs * inputs


def fed_back(
    weight: Float32[Tensor, "outputs inputs"], products: Float32[Tensor, "inputs inputs"], group: int
) -> tuple[Levels, Levels, Levels]:
    """Levels, 0 to 15, with the scale and the zero point of each; an output does not depend on the others.

    ``products`` are those of the inputs with one another, summed or as a mean: their scale makes no difference.
    """
    scale, zero = (
        each.expand(-1, -1, group).flatten(1)[:, : weight.shape[1]] for each in grid_of(blocks_of(weight, group), _TOP)
    )
    passed_on = _passed_on(products.double())
    left, levels = weight.clone(), torch.empty_like(weight)
    for place in range(weight.shape[1]):
        step, middle = scale[:, place], zero[:, place]
        levels[:, place] = levels_on(left[:, place], step, middle, _TOP)
        missing = left[:, place] - (levels[:, place] - middle) * step
        left[:, place + 1 :] -= missing[:, None] * passed_on[place, place + 1 :]
    return levels, scale, zero


def _passed_on(products: Tensor) -> Float32[Tensor, "inputs inputs"]:
    """Row by row, what of an input's error each of those behind it takes up: the Cholesky factor of the inverse."""
    seen = products.diagonal()
    damped = products + torch.diag(_DAMPING * seen.mean() + (seen == 0).double())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)
    return (factor / factor.diagonal()[:, None]).float()
