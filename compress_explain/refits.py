"""Linears that compute with other weights than they came with: in memory, in a model, in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.anatomy import Anatomy, Removed


@dataclass(frozen=True)
class Refit:
    """A weight, always ``(outputs, inputs)`` of the original, and a bias; None where there is none."""

    weight: Float[Tensor, "outputs inputs"] = field(repr=False)
    bias: Float[Tensor, " outputs"] | None = field(repr=False)


Refits = Mapping[str, Refit]  # by the path of the module


def refittable(anatomy: Anatomy) -> list[str]:
    """The linears around the sites: what produces the components, and what consumes them."""
    found = [[producer.module for producer in group.producers] + [group.site] for group in anatomy.groups.values()]
    return list(dict.fromkeys(module for modules in found for module in modules))


def weights_of(model: PreTrainedModel, name: str) -> Refit:
    """What the linear ``name`` computes with now; shares its memory."""
    module = model.get_submodule(name)
    weight: Tensor = module.weight.data  # type: ignore[union-attr,assignment]
    bias = None if module.bias is None else module.bias.data  # type: ignore[union-attr]
    return Refit(weight.T if isinstance(module, Conv1D) else weight, bias)  # type: ignore[arg-type]


def put(model: PreTrainedModel, refits: Refits) -> None:
    """Let linears compute with these weights; nothing is written into those that they had."""
    for name, values in refits.items():
        module = model.get_submodule(name)
        module.weight.data = values.weight.T if isinstance(module, Conv1D) else values.weight  # type: ignore[union-attr]
        if values.bias is not None:
            module.bias.data = values.bias  # type: ignore[union-attr]


def save_refits(refits: Refits, anatomy: Anatomy, removed: Removed, path: Path) -> None:
    """Write what is left of the refitted weights once the ``removed`` components are gone."""
    tensors: dict[str, Tensor] = {}
    for name, (rows, columns) in _left(anatomy, removed):
        if name in refits:
            tensors[f"{name}.weight"] = refits[name].weight[rows][:, columns].contiguous()
            bias = refits[name].bias
            tensors |= {} if bias is None else {f"{name}.bias": bias[rows].contiguous()}
    save_file(tensors, path)


def load_refits(base: PreTrainedModel, anatomy: Anatomy, removed: Removed, path: Path) -> dict[str, Refit]:
    """Read them again; what is not in the file is that of ``base``, the original."""
    tensors = load_file(path)
    refits: dict[str, Refit] = {}
    for name, (rows, columns) in _left(anatomy, removed):
        if f"{name}.weight" in tensors:
            own = weights_of(base, name)
            weight = own.weight.clone(memory_format=torch.contiguous_format)
            weight[rows[:, None], columns] = tensors[f"{name}.weight"]
            bias = None if own.bias is None else own.bias.clone()
            if bias is not None:
                bias[rows] = tensors[f"{name}.bias"]
            refits[name] = Refit(weight, bias)
    return refits


def _left(anatomy: Anatomy, removed: Removed) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Of every linear around a site, the outputs and the inputs that are left."""
    shapes = {linear.module: (linear.outputs, linear.inputs) for linear in anatomy.linears.values()}
    for group in anatomy.groups.values():
        kept = (~removed[group.name]).nonzero().flatten()
        for producer in group.producers:
            yield producer.module, (group.rows(producer, kept), torch.arange(shapes[producer.module][1]))
        yield group.site, (torch.arange(shapes[group.site][0]), group.columns(kept))
