"""Modules that compute with other weights than they came with: in memory, in a model, in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.model.anatomy import Anatomy, Removed
from compress_explain.model.stream import CHANNELS, channels_gone, left_of
from compress_explain.weight_edits import Factors

_FIRST, _SECOND = ".first.weight", ".second.weight"


@dataclass(frozen=True)
class Refit:
    """A weight of the original's shape, that of a linear always ``(outputs, inputs)``, and a bias; None where there is none."""

    weight: Float[Tensor, "outputs ..."] = field(repr=False)
    bias: Float[Tensor, " outputs"] | None = field(repr=False)


Refits = Mapping[str, Refit]  # by the path of the module
Standing = Mapping[str, Refit | Factors]  # what modules compute with, of those that do not with what they came with


def refittable(anatomy: Anatomy) -> list[str]:
    """The linears around the sites: what produces the components, and what consumes them."""
    found = [[producer.module for producer in group.producers] + [group.site] for group in anatomy.groups.values()]
    return list(dict.fromkeys(module for modules in found for module in modules))


def tunable(model: PreTrainedModel) -> list[str]:
    """Linears and norms, wherever they stand; no table of tokens or positions, and nothing that shares its weights with one."""
    tables = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    return [name for name, module in model.named_modules() if _has_weights(module) and id(module.weight) not in tables]


def _has_weights(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() in (1, 2) and not isinstance(module, nn.Embedding)


def weights_of(model: PreTrainedModel, name: str) -> Refit:
    """What the linear or norm ``name`` computes with now; shares its memory."""
    module = model.get_submodule(name)
    weight: Tensor = module.weight.data  # type: ignore[union-attr,assignment]
    own = getattr(module, "bias", None)
    bias = own.data if isinstance(own, Tensor) else None
    return Refit(weight.T if isinstance(module, Conv1D) else weight, bias)  # type: ignore[arg-type]


def put(model: PreTrainedModel, refits: Standing) -> None:
    """Let modules compute with these weights; nothing is written into those that they had."""
    for name, values in refits.items():
        module = model.get_submodule(name)
        module.weight.data = values.weight.T if isinstance(module, Conv1D) else values.weight  # type: ignore[union-attr]
        if values.bias is not None:
            module.bias.data = values.bias  # type: ignore[union-attr]


def save_factors(factors: Mapping[str, Factors], path: Path) -> None:
    """Write the linears, by the path of the module, that two stand in the place of."""
    save_file(_of_factors(factors), path)


def load_factors(path: Path) -> dict[str, Factors]:
    """Read them again, also from among refits."""
    tensors = load_file(path)
    names = [each.removesuffix(_FIRST) for each in tensors if each.endswith(_FIRST)]
    return {
        name: Factors(tensors[name + _SECOND], tensors[name + _FIRST], tensors.get(f"{name}.second.bias"))
        for name in names
    }


def _of_factors(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, values in factors.items():
        tensors |= {name + _FIRST: values.right.contiguous(), name + _SECOND: values.left.contiguous()}
        tensors |= {} if values.bias is None else {f"{name}.second.bias": values.bias.contiguous()}
    return tensors


def save_refits(
    refits: Refits,
    anatomy: Anatomy,
    removed: Removed,
    path: Path,
    factors: Mapping[str, Factors] = MappingProxyType({}),
) -> None:
    """Write what is left of the refitted weights once the ``removed`` components are gone, and ``factors`` in whole."""
    tensors: dict[str, Tensor] = {}
    left = _all_left(anatomy, removed, {name: values.weight for name, values in refits.items()})
    for name, values in refits.items():
        weight, bias = values.weight, values.bias
        if name in left:
            rows, columns = left[name]
            weight = weight[rows] if weight.dim() == 1 else weight[rows][:, columns]
            bias = None if bias is None else bias[rows]
        tensors[f"{name}.weight"] = weight.contiguous()
        tensors |= {} if bias is None else {f"{name}.bias": bias.contiguous()}
    save_file(tensors | _of_factors(factors), path)


def load_refits(base: PreTrainedModel, anatomy: Anatomy, removed: Removed, path: Path) -> dict[str, Refit]:
    """Read them again; what is not in the file is that of ``base``, the original. Factors are left aside."""
    factored = _of_factors(load_factors(path))
    tensors = {name: values for name, values in load_file(path).items() if name not in factored}
    refits: dict[str, Refit] = {}
    left = _all_left(anatomy, removed, {name: weights_of(base, name).weight for name in tunable(base)})
    for name in (each.removesuffix(".weight") for each in tensors if each.endswith(".weight")):
        stored = Refit(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))
        refits[name] = _whole(stored, weights_of(base, name), *left[name]) if name in left else stored
    return refits


def refitted_factors(
    standing: Mapping[str, Factors], anatomy: Anatomy, removed: Removed, path: Path
) -> dict[str, Factors]:
    """``standing`` factors, by linear, as a file of refits has them; what is not in it of one, they keep.

    A linear that the file holds in one alone is factored no more.
    """
    found, whole = load_factors(path), set(load_file(path))
    factors: dict[str, Factors] = {}
    for name, values in standing.items():
        module = anatomy.linears[name].module
        if module in found:
            factors[name] = _spread(found[module], values, *anatomy.coordinates_left(name, removed))
        elif f"{module}.weight" not in whole:
            factors[name] = values
    return factors


def _spread(stored: Factors, own: Factors, rows: Tensor, columns: Tensor) -> Factors:
    """What is stored of two linears, and their ``own`` weights where nothing is."""
    if stored.left.shape == own.left.shape and stored.right.shape == own.right.shape:
        return stored
    left, right, bias = own.left.clone(), own.right.clone(), None if own.bias is None else own.bias.clone()
    left[rows], right[:, columns] = stored.left, stored.right
    if bias is not None and stored.bias is not None:
        bias[rows] = stored.bias
    return Factors(left, right, bias)


def _whole(stored: Refit, own: Refit, rows: Tensor, columns: Tensor) -> Refit:
    """What is stored of a linear, and the ``own`` weights of the original where nothing is."""
    weight = own.weight.clone(memory_format=torch.contiguous_format)
    if weight.dim() == 1:
        weight[rows] = stored.weight
    else:
        weight[rows[:, None], columns] = stored.weight
    bias = None if own.bias is None else own.bias.clone()
    if bias is not None:
        assert stored.bias is not None, "a linear is stored with its bias"
        bias[rows] = stored.bias
    return Refit(weight, bias)


def _all_left(
    anatomy: Anatomy, removed: Removed, weights: Mapping[str, Float[Tensor, "outputs ..."]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every module that something is gone of, the outputs and the inputs that are left; ``weights`` are those of some."""
    left = dict(_left(anatomy, removed))
    if anatomy.stream is None or not channels_gone(removed):
        return left
    kept, count = (~removed[CHANNELS]).nonzero().flatten(), anatomy.stream.count
    for name, weight in weights.items():
        outputs, inputs = left.get(name, (torch.arange(len(weight)), torch.arange(weight.shape[-1])))
        if name in anatomy.stream.writes or (weight.dim() == 1 and name in anatomy.stream.entries):
            outputs = kept
        if name in anatomy.stream.reads:
            inputs = left_of(anatomy.stream.reads[name], weight.shape[-1], count, kept)
        left[name] = outputs, inputs
    return left


def _left(anatomy: Anatomy, removed: Removed) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Of every linear around a site, the outputs and the inputs that are left."""
    shapes = {linear.module: (linear.outputs, linear.inputs) for linear in anatomy.linears.values()}
    for group in anatomy.groups.values():
        kept = (~removed[group.name]).nonzero().flatten()
        for producer in group.producers:
            yield producer.module, (group.rows(producer, kept), torch.arange(shapes[producer.module][1]))
        yield group.site, (torch.arange(shapes[group.site][0]), group.columns(kept))
