"""One of two models whose insides are looked at: its rows, its layers, and which tokens are real."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.signals.stream.layers import Layers


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A model, the rows as it reads them, and its layers under the names that the original has for them."""

    name: Literal["original", "compressed"]
    model: PreTrainedModel = field(repr=False)
    examples: Examples = field(repr=False)
    layers: Layers = field(repr=False)

    def real(self, batch: Batch, tokens: int) -> Bool[Tensor, "batch tokens"]:
        """Which of the tokens of the stream are no padding; all, where the stream is not as long as what masks say."""
        decoder = self.examples.inputs.get("decoder_input_ids")
        if decoder is not None:
            lengths = torch.tensor([len(decoder[row]) for row in batch.rows])
            return torch.arange(tokens) < lengths[:, None]
        mask = batch.inputs.get("attention_mask")
        if mask is None or mask.shape[1] != tokens:
            return torch.ones(len(batch.rows), tokens, dtype=torch.bool)
        return mask.bool()
