"""Outliers as real models have them, put into a model that has none, without changing what it computes.

Large language models and many encoders hold a few activations that are hundreds of times as large as
the others, always in the same channels: some carry information that is scaled down again where it is read
(Dettmers et al. 2022), some hardly depend on the input and act as a bias (Sun et al. 2024). An
8-bit range wide enough for them leaves the others with a few levels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


def with_outliers(
    model: PreTrainedModel,
    *,
    scaled: Sequence[int],
    constant: Sequence[int],
    factor: float = 100.0,
    size: float = 100.0,
) -> PreTrainedModel:
    """A copy of a BERT that computes the same but for one neuron in each of the layers in ``constant``.

    In the layers in ``scaled`` the first value channel of every head is ``factor`` times as large and what reads
    it as many times smaller: exact. In those in ``constant`` the neuron with the smallest weights gives ``size``
    whatever the input, with weights of ordinary size behind it, and
    the bias behind it takes that off again.
    """
    changed = copy.deepcopy(model)
    layers = changed.base_model.encoder.layer
    width = model.config.hidden_size // model.config.num_attention_heads
    with torch.no_grad():
        for index in scaled:
            value, output = layers[index].attention.self.value, layers[index].attention.output.dense
            value.weight[::width] *= factor
            value.bias[::width] *= factor
            output.weight[:, ::width] /= factor
        for index in constant:
            up, down = layers[index].intermediate.dense, layers[index].output.dense
            neuron = int((up.weight.norm(dim=1) * down.weight.norm(dim=0)).argmin())
            up.weight[neuron], up.bias[neuron] = 0.0, size
            column = down.weight[:, neuron]
            column *= down.weight.norm(dim=0).mean() / column.norm().clamp(min=1e-12)
            down.bias -= size * column
    return changed
