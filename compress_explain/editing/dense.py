"""The dense twin of a compressed model: the original's shapes, zeros where components were, the same function.

A removed component's outputs and what its consumer reads of it are zero, so that it adds nothing
whatever it computes; of a removed sublayer or layer the consumers' biases are zero too. It is as large and
as slow as the original and needs nothing of this package: plain ``from_pretrained`` loads it. A
factored linear is the product of its factors. A smaller vocabulary is smaller here too.
"""

from __future__ import annotations

import copy
from types import MappingProxyType

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.editing.refits import Standing, put
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Group, Removed
from compress_explain.model.embedding import TOKENS, cut_rows
from compress_explain.model.stream import channels_gone


def dense_twin(
    model: PreTrainedModel, anatomy: Anatomy, removed: Removed, refits: Standing = MappingProxyType({})
) -> PreTrainedModel:
    """A copy of ``model`` with ``refits`` that computes what is left of it; ``model`` is left as it is.

    Raises:
        InputError: a layer is removed that changes the stream even if it adds nothing, or a channel of the stream.
    """
    if any(layer.name in removed and removed[layer.name].any() for layer in anatomy.layers.values()):
        refuse_norms_after(anatomy)
    if channels_gone(removed):
        refuse_channels()
    removed = anatomy.closed(removed)
    twin = copy.deepcopy(model)
    put(twin, copy.deepcopy(dict(refits)))
    with torch.no_grad():
        for name, group in anatomy.groups.items():
            if name in removed and removed[name].any():
                _zero_group(twin, group, removed[name].nonzero().flatten())
        for sublayer in anatomy.sublayers.values():
            site = twin.get_submodule(anatomy.groups[sublayer.groups[-1]].site)
            if sublayer.name in removed and removed[sublayer.name].any() and site.bias is not None:
                site.bias.zero_()  # type: ignore[operator,union-attr]
        if anatomy.embedding is not None and removed.get(TOKENS, torch.zeros(1)).any():
            cut_rows(twin, removed[TOKENS])
    return twin


def refuse_norms_after(anatomy: Anatomy) -> None:
    """Raises InputError for a model whose layers hold more than their sublayers: norms of the stream itself."""
    for layer in anatomy.layers.values():
        if layer.parameters > sum(anatomy.sublayers[name].parameters for name in layer.sublayers):
            problem = f"{layer.name} norms the stream, which zeros cannot undo when it is gone"
            raise InputError("artifacts", "dense", problem, "leave dense out, or remove sublayers instead of layers")


def refuse_channels() -> None:
    """Raises InputError: a norm over zeros is not a norm over fewer channels."""
    problem = "a norm is taken over the channels that are left, which zeros in the place of the others cannot express"
    raise InputError("artifacts", "dense", problem, "leave dense out, or the strategy width")


def _zero_group(twin: PreTrainedModel, group: Group, gone: Int[Tensor, " gone"]) -> None:
    for producer in group.producers:
        linear = twin.get_submodule(producer.module)
        rows = group.rows(producer, gone)
        _zero(linear, 0, rows)
        if linear.bias is not None:
            linear.bias[rows] = 0.0  # type: ignore[operator,index]
    _zero(twin.get_submodule(group.site), 1, group.columns(gone))


def _zero(linear: nn.Module, dimension: int, index: Int[Tensor, " index"]) -> None:
    """Zero outputs (dimension 0) or inputs (1) of a weight, however it is stored."""
    stored = 1 - dimension if isinstance(linear, Conv1D) else dimension
    linear.weight.index_fill_(stored, index, 0.0)  # type: ignore[operator,union-attr]
