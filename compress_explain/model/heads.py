"""What a model's head gives, as one array."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from compress_explain.model.tasks import task_of

BOUNDS = ("start_logits", "end_logits")
STATES = "last_hidden_state"


def outputs_of(model_class: str) -> tuple[str, ...]:
    """What an exported file of a class of transformers gives, by name."""
    return {"bound": BOUNDS, "neighbour": (STATES,)}.get(task_of(model_class).decides, ("logits",))


def logits_in(output: ModelOutput) -> Tensor:
    """The logits of an output; of a head that marks an answer, those of its start and of its end, ``(batch, 2, tokens)``.

    Of a model without a head, the states of its tokens, ``(batch, tokens, width)``.
    """
    if all(name in output for name in BOUNDS):
        return torch.stack([output[name] for name in BOUNDS], 1)
    given: Tensor = output[STATES] if "logits" not in output and STATES in output else output.logits
    return given
