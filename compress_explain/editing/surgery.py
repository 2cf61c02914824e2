"""Physical removal: slice the producers' rows and the consumers' columns, once, at the end."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.editing.refits import Refit, Standing, put
from compress_explain.families import family_of
from compress_explain.model.anatomy import Anatomy, Group, Ranks, Removed, Sublayer, base_prefix, linear_shape
from compress_explain.model.depth import drop_layers
from compress_explain.model.embedding import TOKENS, cut_rows
from compress_explain.model.emptied import EmptiedAttention, Nothing
from compress_explain.model.factored import FactoredLinear
from compress_explain.model.stream import CHANNELS, channels_gone, cut_channels
from compress_explain.weight_edits import Factors


def materialize(
    model: PreTrainedModel, anatomy: Anatomy, removed: Removed, refits: Standing = MappingProxyType({})
) -> PreTrainedModel:
    """A smaller copy of ``model``, with ``refits`` and without the removed components; ``model`` is left as it is.

    Linears that are factored become two each, where two are smaller than one.
    """
    smaller = copy.deepcopy(model)
    values = copy.deepcopy(dict(refits))
    put(smaller, {name: each for name, each in values.items() if isinstance(each, Refit)})
    for name, each in values.items():
        if isinstance(each, Factors):
            smaller.set_submodule(name, FactoredLinear.of(each))
    cut(smaller, anatomy, removed)
    return smaller


def cut(model: PreTrainedModel, anatomy: Anatomy, removed: Removed) -> None:
    """Remove components from ``model`` in place.

    A sublayer that lost all its heads or neurons adds its consumer's bias alone; one that was removed
    adds nothing. Removed layers leave their list, and those behind them move up.
    """
    removed = anatomy.closed(removed)
    touched = _touched(anatomy, removed)
    own_biases = _biases_to_copy(model, touched)
    with torch.no_grad():
        for attention, weight in own_biases.items():
            _give_own_bias(model.get_submodule(attention), weight)
        if anatomy.embedding is not None and removed.get(TOKENS, torch.zeros(1)).any():
            cut_rows(model, removed[TOKENS])
        if anatomy.stream is not None and channels_gone(removed):
            cut_channels(model, anatomy.stream, removed[CHANNELS])
        for group in touched:
            _cut_group(model, group, (~removed[group.name]).nonzero().flatten())
    for attention in own_biases:
        _compute_own_bias(model.get_submodule(attention))
    for sublayer in anatomy.sublayers.values():
        if _gone(removed, sublayer.name):
            _leave_nothing(model, anatomy, sublayer)
    drop_layers(model, [layer for layer in anatomy.layers.values() if _gone(removed, layer.name)])


def expected_parameters(
    model: PreTrainedModel, anatomy: Anatomy, removed: Removed, ranks: Ranks = MappingProxyType({})
) -> int:
    """Parameters of the smaller model: what the edits save, and any position bias that had to be copied."""
    removed = anatomy.closed(removed)
    saved, _ = anatomy.saved(removed, ranks)
    touched = _touched(anatomy, removed)
    copies = 0
    by_attention = {group.attention: group for group in anatomy.groups.values() if group.attention}
    for attention, weight in _biases_to_copy(model, touched).items():
        if not _has_bias(model.get_submodule(attention)):
            group = by_attention[attention]
            kept = group.count - int(removed[group.name].sum()) if group.name in removed else group.count
            copies += weight.shape[0] * kept
    whole = {group for name, unit in anatomy.sublayers.items() if _gone(removed, name) for group in unit.groups}
    emptied = [group for group in touched if group.attention and removed[group.name].all() and group.name not in whole]
    return anatomy.parameters - saved + copies - sum(_around_heads(model, group) for group in emptied)


def _around_heads(model: PreTrainedModel, group: Group) -> int:
    """Parameters of an attention that belong to no head and go with the last one: norms of queries and keys."""
    attention = f"{group.attention}."
    of_heads = [producer.module for producer in group.producers] + [group.site, group.position_bias or group.site]
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.startswith(attention) and name.rpartition(".")[0] not in of_heads
    )


def _gone(removed: Removed, unit: str) -> bool:
    return bool(unit in removed and removed[unit].any())


def _leave_nothing(model: PreTrainedModel, anatomy: Anatomy, sublayer: Sublayer) -> None:
    """Take away what is left of a sublayer whose components were all cut."""
    for name in sublayer.groups:
        group = anatomy.groups[name]
        for module in [group.site, *(producer.module for producer in group.producers)]:
            if _stands(model, module):  # an emptied attention holds its output projection at most
                width = linear_shape(model.get_submodule(module))[1]
                model.set_submodule(module, Nothing(width))
    for module in sublayer.around:
        model.set_submodule(module, nn.Identity())


def _stands(model: PreTrainedModel, module: str) -> bool:
    try:
        model.get_submodule(module)
    except AttributeError:
        return False
    return True


def _touched(anatomy: Anatomy, removed: Removed) -> list[Group]:
    return [group for name, group in anatomy.groups.items() if name in removed and removed[name].any()]


def _cut_group(model: PreTrainedModel, group: Group, kept: Int[Tensor, " kept"]) -> None:
    for producer in group.producers:
        _keep_outputs(model.get_submodule(producer.module), group.rows(producer, kept))
    if not len(kept) and isinstance(model.get_submodule(group.site), Conv1D):
        model.set_submodule(group.site, as_linear(model.get_submodule(group.site)))  # a Conv1D needs an input
    _keep_inputs(model.get_submodule(group.site), group.columns(kept))
    for module in (*(producer.module for producer in group.producers), group.site):
        linear = model.get_submodule(module)
        if isinstance(linear, FactoredLinear) and not linear.saves:
            model.set_submodule(module, linear.multiplied_out())
    if group.attention and len(kept):
        _resize_attention(model, group, kept)
    elif group.attention:
        _empty_attention(model, group.attention, group)


def _keep_outputs(linear: nn.Module, rows: Int[Tensor, " rows"]) -> None:
    linear = linear.second if isinstance(linear, FactoredLinear) else linear
    dimension = 1 if isinstance(linear, Conv1D) else 0
    linear.weight = _sliced(linear.weight, dimension, rows)  # type: ignore[arg-type]
    if linear.bias is not None:
        linear.bias = _sliced(linear.bias, 0, rows)  # type: ignore[arg-type]
    setattr(linear, "nf" if isinstance(linear, Conv1D) else "out_features", len(rows))


def _keep_inputs(linear: nn.Module, columns: Int[Tensor, " columns"]) -> None:
    linear = linear.first if isinstance(linear, FactoredLinear) else linear
    dimension = 0 if isinstance(linear, Conv1D) else 1
    linear.weight = _sliced(linear.weight, dimension, columns)  # type: ignore[arg-type]
    setattr(linear, "nx" if isinstance(linear, Conv1D) else "in_features", len(columns))


def as_linear(module: nn.Module) -> nn.Linear:
    """What a ``Conv1D`` computes, as an ordinary linear; the bias is shared."""
    inputs, outputs = module.weight.shape  # type: ignore[union-attr,misc]
    linear = nn.Linear(inputs, outputs, bias=module.bias is not None)  # type: ignore[arg-type]
    linear.weight = nn.Parameter(module.weight.detach().T)  # type: ignore[union-attr,operator]
    linear.bias = module.bias  # type: ignore[assignment]
    return linear


def _sliced(parameter: nn.Parameter, dimension: int, index: Int[Tensor, " index"]) -> nn.Parameter:
    kept = parameter.detach().index_select(dimension, index.to(parameter.device)).contiguous()
    return nn.Parameter(kept, requires_grad=parameter.requires_grad)


def _resize_attention(model: PreTrainedModel, group: Group, kept: Int[Tensor, " kept"]) -> None:
    module = model.get_submodule(group.attention or "")
    for name, each in group.sizes.items():
        shared = name.removeprefix("config.")
        if shared == name:
            setattr(module, name, len(kept) * each)
        else:
            module.config = OwnSizes(module.config, {shared: len(kept) * each})  # type: ignore[assignment]
    if group.position_bias and _has_bias(module):
        module.relative_attention_bias.weight = _sliced(module.relative_attention_bias.weight, 1, kept)  # type: ignore[union-attr,arg-type]
        module.relative_attention_bias.embedding_dim = len(kept)  # type: ignore[union-attr,assignment]
    if group.lent_bias:
        module.register_forward_pre_hook(partial(_with_own_columns, group.lent_bias, kept), with_kwargs=True)


@dataclass(frozen=True)
class OwnSizes:
    """A model's configuration as one of its modules sees it: some numbers are the module's own, the rest is shared."""

    shared: Any
    own: Mapping[str, int]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for by what copies an object, before it has any fields
            raise AttributeError(name)
        return self.own[name] if name in self.own else getattr(self.shared, name)


# MPNet's encoder computes one position bias, a column a head, and hands it to every layer: a layer
# takes the columns of the heads that it kept.


def _with_own_columns(
    name: str,
    kept: Int[Tensor, " kept"],
    module: nn.Module,
    arguments: tuple[object, ...],
    options: dict[str, object],
) -> tuple[tuple[object, ...], dict[str, object]]:
    call = inspect.signature(module.forward).bind(*arguments, **options)
    bias = call.arguments.get(name)
    if isinstance(bias, Tensor):
        call.arguments[name] = bias.index_select(1, kept.to(bias.device))  # (batch, heads, queries, keys)
    return call.args, call.kwargs


def _empty_attention(model: PreTrainedModel, attention: str, group: Group) -> None:
    inside = group.site.removeprefix(f"{attention}.") if group.site.startswith(f"{attention}.") else None
    module = model.get_submodule(attention)
    model.set_submodule(attention, EmptiedAttention(module, inside, hands_on_bias=group.position_bias is not None))


# T5 computes one position bias in a stack's first layer, a column a head, and lends it to the
# others. Once layers keep different heads each needs a bias of its own.


def _has_bias(attention: nn.Module) -> bool:
    return getattr(attention, "relative_attention_bias", None) is not None


def _biases_to_copy(model: PreTrainedModel, touched: list[Group]) -> dict[str, Tensor]:
    """Attention modules of the touched stacks and the shared bias of each; cross-attention has none."""
    stacks = {(group.name.split(".")[0], "cross" in group.name) for group in touched if group.position_bias}
    found: dict[str, Tensor] = {}
    for stack in family_of(model.config.model_type).stacks:
        for parts in stack.attention:
            if parts.position_bias is None or (stack.name, parts.cross) not in stacks:
                continue
            prefix = base_prefix(model) + stack.layers
            layers = list(model.get_submodule(prefix).children())
            first = layers[0].get_submodule(parts.module)
            weight = first.relative_attention_bias.weight if _has_bias(first) else torch.empty(0, 0)  # type: ignore[union-attr]
            found.update({f"{prefix}.{index}.{parts.module}": weight for index in range(len(layers))})  # type: ignore[misc]
    return found


def _give_own_bias(attention: nn.Module, weight: Tensor) -> None:
    if weight.numel() and not _has_bias(attention):
        buckets, heads = weight.shape
        own = nn.Embedding(buckets, heads, device=weight.device, dtype=weight.dtype)
        own.weight = nn.Parameter(weight.detach().clone())
        attention.relative_attention_bias = own
        attention.has_relative_attention_bias = True  # type: ignore[assignment]


def _compute_own_bias(attention: nn.Module) -> None:
    """Make the module ignore the bias that the layer before hands on."""
    attention.register_forward_pre_hook(_without_lent_bias, with_kwargs=True)


def _without_lent_bias(
    module: nn.Module, arguments: tuple[object, ...], options: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    return arguments, {**options, "position_bias": None}
