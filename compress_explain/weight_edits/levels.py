"""Numbers as whole levels of a scale, rounded as ONNX Runtime's quantizers and kernels round them.

Where a scale would fall below the smallest normal float32, everything under it becomes zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny
BYTES_OF_SCALE = 4 + 1  # float32, and a zero point that the runtime stores although it is 0


def scale_of(largest: Float32[Tensor, "*channels"]) -> Float32[Tensor, "*channels"]:
    """The step between neighbouring 8-bit levels, whose 127th is ``largest``."""
    step = largest.double() / 127
    return torch.where(step < TINY, 1.0, step).float()


def signed_levels(
    weight: Float32[Tensor, "outputs inputs"], scale: Float32[Tensor, "*channels"]
) -> Float32[Tensor, "outputs inputs"]:
    """Levels from -127 to 127, ties to even."""
    return (weight / scale).round().clamp(-127, 127)


def unsigned_levels(
    x: Float32[Tensor, "*shape"], scale: Float32[Tensor, ""], zero: Float32[Tensor, ""]
) -> Float32[Tensor, "*shape"]:
    """Levels from 0 to 255, ties to even, with the ``zero`` point already subtracted."""
    return ((x / scale).round() + zero).clamp(0, 255) - zero


def blocks_of(weight: Float32[Tensor, "outputs inputs"], group: int) -> Float32[Tensor, "outputs groups group"]:
    """Groups of neighbouring inputs, the last filled up with zeros."""
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % group))
    return padded.unflatten(1, (-1, group))


def unblocked(blocks: Float32[Tensor, "outputs groups group"], inputs: int) -> Float32[Tensor, "outputs inputs"]:
    """Without what the last group was filled up with."""
    return blocks.flatten(1)[:, :inputs].contiguous()


def evenly_spaced(weight: Float32[Tensor, "outputs groups group"], top: int) -> Float32[Tensor, "outputs groups group"]:
    """Each group rounded to values from level 0 to level ``top``, of which zero is one, ties to the larger."""
    scale, zero = grid_of(weight, top)
    return (levels_on(weight, scale, zero, top) - zero) * scale


def grid_of(
    weight: Float32[Tensor, "outputs groups group"], top: int
) -> tuple[Float32[Tensor, "outputs groups 1"], Float32[Tensor, "outputs groups 1"]]:
    """The step between the levels of each group, and which of them, 0 to ``top``, is zero."""
    low = weight.amin(-1, keepdim=True).clamp(max=0)
    high = weight.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / top
    scale = torch.where(step < TINY, 1.0, step)
    return scale, _half_up(-low / scale, top)


def levels_on(
    weight: Float32[Tensor, "*shape"], scale: Float32[Tensor, "*scales"], zero: Float32[Tensor, "*scales"], top: int
) -> Float32[Tensor, "*shape"]:
    """The nearest levels, 0 to ``top``."""
    return _half_up(weight * (1 / scale) + zero, top)


def _half_up(levels: Float32[Tensor, "*shape"], top: int) -> Float32[Tensor, "*shape"]:
    """The nearest whole number from 0 to ``top``, ties to the larger."""
    within = levels.clamp(0, top)
    whole = within.floor()
    return whole + (within - whole >= 0.5)
