"""The control that knows nothing: a model of the same shape with the weights that training begins with."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel


def without_knowledge(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same shape with random weights, drawn by ``seed``; what probes read off it nobody taught it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model)(copy.deepcopy(model.config)).eval()
