"""What a model's head gives, as one array."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.utils import ModelOutput

BOUNDS = ("start_logits", "end_logits")


def logits_in(output: ModelOutput) -> Tensor:
    """The logits of an output; of a head that marks an answer, those of its start and of its end, ``(batch, 2, tokens)``."""
    if all(name in output for name in BOUNDS):
        return torch.stack([output[name] for name in BOUNDS], 1)
    logits: Tensor = output.logits
    return logits
