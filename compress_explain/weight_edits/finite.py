"""Weights and biases as float32, refused where they are not finite numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from compress_explain.errors import InputError


def finite(culprit: str, values: Float[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """``values`` in float32, detached from any gradient.

    Raises:
        InputError: a value is infinite or not a number; names the first.
    """
    flags = torch.isfinite(values)
    if not flags.all():
        index = (~flags).nonzero()[0].tolist()
        raise InputError(
            culprit,
            f"{values[tuple(index)].item()} at {index}",
            "not a finite number",
            "leave this linear as it is, or repair the model",
        )
    return values.detach().float()


def finite_bias(bias: Float[Tensor, " outputs"] | None) -> Float32[Tensor, " outputs"] | None:
    """The same for a bias, which a linear may do without.

    Raises:
        InputError: a value is infinite or not a number; names the first.
    """
    return None if bias is None else finite("bias", bias)
