"""The patches of an image: how much each speaks for a class, and what is said without some."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from captum.attr import InputXGradient, IntegratedGradients
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.signals.attribution.pieces import AT_ONCE, logits_ordered

_ALONG_A_SIDE = 14  # patches of an image, where the model has none of its own


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Patches of an image, ``side`` pixels each way; the baseline is 0, which is the mean of pixels that are normalised."""

    model: PreTrainedModel = field(repr=False)
    side: int
    order: tuple[int, ...] | None = None

    def free(self, batch: Batch) -> Bool[Tensor, "batch pieces"]:
        return torch.ones_like(self._summed(batch.inputs["pixel_values"]), dtype=torch.bool)

    def logits(
        self, batch: Batch, without: Bool[Tensor, "batch pieces"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        with torch.no_grad():
            pixels = batch.inputs["pixel_values"]
            return self._forward(pixels if without is None else pixels.masked_fill(self._spread(without, pixels), 0))

    def integrated_gradients(
        self, batch: Batch, classes: Int[Tensor, " batch"], steps: int
    ) -> Float[Tensor, "batch pieces"]:
        pixels = batch.inputs["pixel_values"]
        most = max(AT_ONCE, len(pixels))
        found = IntegratedGradients(self._forward).attribute(
            pixels, target=classes, n_steps=steps, internal_batch_size=most
        )
        return self._summed(found.detach().float())

    def input_x_gradient(self, batch: Batch, classes: Int[Tensor, " batch"]) -> Float[Tensor, "batch pieces"]:
        pixels = batch.inputs["pixel_values"].detach().clone().requires_grad_()
        return self._summed(InputXGradient(self._forward).attribute(pixels, target=classes).detach().float())

    def _forward(self, pixels: Tensor) -> Float[Tensor, "batch classes"]:
        return logits_ordered(self.model, {"pixel_values": pixels}, self.order)

    def _summed(self, pixels: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch pieces"]:
        """Over channels and the pixels of each patch; an edge that fills no patch is part of none."""
        return avg_pool2d(pixels.sum(1, keepdim=True), self.side, divisor_override=1).flatten(1)

    def _spread(
        self, patches: Bool[Tensor, "batch pieces"], pixels: Float[Tensor, "batch channels height width"]
    ) -> Bool[Tensor, "batch 1 height width"]:
        height, width = (size // self.side for size in pixels.shape[2:])
        flags = patches.view(len(patches), 1, height, width)
        for axis in (2, 3):
            flags = flags.repeat_interleave(self.side, axis)
        spread = torch.zeros_like(pixels[:, :1], dtype=torch.bool)
        spread[:, :, : flags.shape[2], : flags.shape[3]] = flags
        return spread


def patch_side(model: PreTrainedModel, examples: Examples) -> int:
    """Pixels along a side of the model's own patches, or of a fourteenth of the image."""
    for config in (model.config, getattr(model.config, "vision_config", None)):
        size = getattr(config, "patch_size", None)
        if isinstance(size, int):
            return size
    return max(1, int(min(examples.inputs["pixel_values"][0].shape[1:])) // _ALONG_A_SIDE)
