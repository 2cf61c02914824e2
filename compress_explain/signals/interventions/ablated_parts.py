"""What is ablated: every head, the neurons of each layer in eight groups, and whole sublayers, under the names of the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.model.anatomy import Anatomy, Group, read_anatomy
from compress_explain.signals.stream.layers import Layers

EIGHTHS = 8  # groups of neurons a layer


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """``columns`` of what enters linear ``module``; where there are none, all that ``module`` gives, a sublayer's share of the stream.

    ``layer`` and ``name`` are the original's.
    """

    layer: str
    name: str
    module: str
    columns: Int[Tensor, " columns"] | None = field(default=None, repr=False)


def ablated_parts(
    model: PreTrainedModel, layers: Layers, renamed: Mapping[str, str], like: Anatomy | None = None
) -> list[Ablated]:
    """Of each layer its sublayers, and the heads, or groups of heads, and eighths of neurons in them.

    ``renamed`` maps the model's own names to the original's. Eighths are those of the model that is ``like`` the original, so that an
    eighth of a compressed model holds what is left of the original's; of the model itself where none is given.

    Raises:
        InputError: the model's family is unknown, or a whole sublayer was taken out.
    """
    anatomy = read_anatomy(model, tokens=1)
    reader = _Reader(anatomy=anatomy, renamed=renamed, like=anatomy if like is None else like)
    by_module = {layer.module: layer for layer in anatomy.layers.values()}
    return [
        part
        for name, module in zip(layers.names, layers.modules, strict=True)
        for sublayer in by_module[module].sublayers
        for part in reader.parts(by_module[module].name, name, sublayer)
    ]


@dataclass(frozen=True, kw_only=True)
class _Reader:
    anatomy: Anatomy
    renamed: Mapping[str, str]
    like: Anatomy

    def parts(self, own: str, layer: str, sublayer: str) -> Iterator[Ablated]:
        """Of one sublayer of the layer that is called ``layer`` in the original, and ``own`` here."""
        named = sublayer.replace(own, layer, 1)
        for group in (self.anatomy.groups[name] for name in self.anatomy.sublayers[sublayer].groups):
            yield Ablated(layer=layer, name=named, module=group.adds)
            names = [self.renamed.get(each, each.replace(own, layer, 1)) for each in group.components]
            members = self._eighths(group, names) if group.kind == "neuron" else {n: [i] for i, n in enumerate(names)}
            for name, indices in members.items():
                columns = group.columns(torch.tensor(indices))
                yield Ablated(layer=layer, name=name, module=group.site, columns=columns)

    def _eighths(self, group: Group, names: list[str]) -> dict[str, list[int]]:
        """Which members are in each eighth, by the first and last neuron of it: ``encoder.layer.0.ffn.neuron.0-191``."""
        whole = names[0].rpartition(".")[0]
        numbers = [int(name.rpartition(".")[2]) for name in names]
        count = self.like.groups[whole].count if whole in self.like.groups else max(numbers) + 1
        bounds = np.linspace(0, count, EIGHTHS + 1).astype(int).tolist()
        found = {
            f"{whole}.{start}-{end - 1}": [index for index, number in enumerate(numbers) if start <= number < end]
            for start, end in pairwise(bounds)
        }
        return {name: indices for name, indices in found.items() if indices}
