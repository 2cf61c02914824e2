"""The residual stream: its channels, where they lie in the model's parameters, how they are cut out.

A channel is one coordinate of the hidden size: component ``stream.channel.<index>``. It belongs to
no layer: every embedding has a column of it, every norm an entry, every linear that reads the stream
an input and every one that writes to it an output. What one costs depends on what else is left of
those, and the other way round: an entry that a removed neuron and a removed channel share is saved once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.model.components import Linear

if TYPE_CHECKING:
    from compress_explain.model.anatomy import Anatomy

CHANNELS = "stream.channel"
CHANNEL = "channel"

_SIZES: dict[type[nn.Module], tuple[str, ...]] = {  # by module: what repeats how long a dimension of its weight is
    nn.Linear: ("out_features", "in_features"),
    Conv1D: ("nx", "nf"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.Conv1d: ("out_channels", "in_channels"),
    nn.Conv2d: ("out_channels", "in_channels"),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the channels lie in one parameter: along a ``dimension`` as it is stored, all of them in order from each of ``starts``.

    ``parameters`` is how many of its numbers one channel is.
    """

    parameter: str
    dimension: int
    parameters: int
    starts: tuple[int, ...] = (0,)

    def within(self, module: str) -> bool:
        """Whether the parameter is one of a module, or of one inside it."""
        return self.parameter.startswith(f"{module}.")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The channels of the residual stream.

    ``reads`` are the modules whose inputs are channels, each with the first input of every block of them, ``writes`` those
    whose outputs are, ``norms`` those that compute an entry from all channels. ``tables`` are the parameters with a row
    a token. ``flops`` is what a channel takes in the layers of the whole model.
    """

    count: int
    places: tuple[Place, ...] = field(repr=False)
    reads: Mapping[str, tuple[int, ...]] = field(repr=False)
    writes: tuple[str, ...] = field(repr=False)
    norms: tuple[str, ...] = field(repr=False)
    tables: tuple[str, ...] = field(default=(), repr=False)
    flops: int = 0
    name: str = CHANNELS
    kind: str = CHANNEL

    @property
    def parameters(self) -> int:
        """What one channel takes in the whole model."""
        return sum(place.parameters for place in self.places)

    @cached_property
    def entries(self) -> frozenset[str]:
        """The modules with a weight of one number a channel: norms, and what scales a sublayer's output."""
        owners = (place.parameter.rpartition(".") for place in self.places if place.parameters == 1)
        return frozenset(owner for owner, _, name in owners if name == "weight")

    @cached_property
    def components(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{index}" for index in range(self.count))

    def facts(self) -> dict[str, Any]:
        """As plain values, which :func:`stream_of` reads again."""
        return asdict(self)


def stream_of(facts: Mapping[str, Any]) -> Stream:
    """The stream that :meth:`Stream.facts` describes.

    Raises:
        KeyError, TypeError, ValueError: they describe none.
    """
    return Stream(
        count=int(facts["count"]),
        places=tuple(Place(**{**each, "starts": tuple(each["starts"])}) for each in facts["places"]),
        reads={str(name): tuple(starts) for name, starts in facts["reads"].items()},
        writes=tuple(facts["writes"]),
        norms=tuple(facts["norms"]),
        tables=tuple(facts["tables"]),
        flops=int(facts["flops"]),
    )


def channels_gone(removed: Mapping[str, Tensor]) -> int:
    """How many channels are removed."""
    return int(removed[CHANNELS].sum()) if CHANNELS in removed else 0


def flops_across(anatomy: Anatomy, stream: Stream, linears: Iterable[str]) -> int:
    """FLOPs of one channel in some linears of the layers."""
    each = [anatomy.linears[name] for name in linears]
    read = sum(linear.tokens * linear.outputs for linear in each if linear.module in stream.reads)
    return 2 * (read + sum(linear.tokens * linear.inputs for linear in each if linear.module in stream.writes))


def across(anatomy: Anatomy, stream: Stream) -> dict[str, tuple[int, int]]:
    """By part: how many parameters and FLOPs one of its components and one channel have in common."""
    shared = {name: _across_group(anatomy, stream, name) for name in anatomy.groups}
    if anatomy.embedding is not None:
        rows = anatomy.embedding.count
        tables = [place for place in stream.places if place.parameter in stream.tables]
        shared[anatomy.embedding.name] = (sum(place.parameters // rows for place in tables), 0)
    for name, sublayer in anatomy.sublayers.items():
        linears = [anatomy.linears[each].module for each in sublayer.linears]
        attention = [anatomy.groups[each].attention for each in sublayer.groups]
        whole = [*sublayer.around, *linears, *filter(None, attention)]
        shared[name] = (_parameters_in(stream, whole), flops_across(anatomy, stream, sublayer.linears))
    for name, layer in anatomy.layers.items():
        linears = [each for sublayer in layer.sublayers for each in anatomy.sublayers[sublayer].linears]
        shared[name] = (_parameters_in(stream, [layer.module]), flops_across(anatomy, stream, linears))
    return shared


def _across_group(anatomy: Anatomy, stream: Stream, name: str) -> tuple[int, int]:
    group = anatomy.groups[name]
    tokens = {linear.module: linear.tokens for linear in anatomy.linears.values()}
    shared = [(each.width, tokens[each.module]) for each in group.producers if each.module in stream.reads]
    shared += [(group.width, tokens[group.site])] * (group.site in stream.writes)
    return sum(width for width, _ in shared), 2 * sum(width * many for width, many in shared)


def _parameters_in(stream: Stream, modules: Iterable[str]) -> int:
    modules = list(modules)
    return sum(place.parameters for place in stream.places if any(place.within(each) for each in modules))


def without_channels(anatomy: Anatomy, channels: int) -> Anatomy:
    """What the model takes without so many channels, all else being there; only its numbers mean something."""
    stream = anatomy.stream
    if stream is None or not channels:
        return anatomy
    less = partial(_less, across(anatomy, stream), channels)
    return replace(
        anatomy,
        parameters=anatomy.parameters - channels * stream.parameters,
        groups={name: less(each) for name, each in anatomy.groups.items()},
        linears={name: narrower(stream, channels, each) for name, each in anatomy.linears.items()},
        sublayers={name: less(each) for name, each in anatomy.sublayers.items()},
        layers={name: less(each) for name, each in anatomy.layers.items()},
        embedding=anatomy.embedding and less(anatomy.embedding),
        stream=None,
    )


def _less(shared: Mapping[str, tuple[int, int]], channels: int, part: Any) -> Any:
    """A part without what lies in so many channels."""
    parameters, flops = (channels * each for each in shared[part.name])
    return replace(part, parameters=part.parameters - parameters, flops=part.flops - flops)


def narrower(stream: Stream | None, channels: int, linear: Linear) -> Linear:
    """A linear of the layers without so many channels."""
    if stream is None or not channels:
        return linear
    outputs = linear.outputs - channels * (linear.module in stream.writes)
    inputs = linear.inputs - channels * (linear.module in stream.reads)
    return replace(linear, outputs=outputs, inputs=inputs, flops=2 * linear.tokens * outputs * inputs)


def cut_channels(model: PreTrainedModel, stream: Stream, removed: Bool[Tensor, " channels"]) -> None:
    """Take channels out of ``model`` in place. Its configuration keeps the hidden size from which heads get theirs."""
    kept = (~removed).nonzero().flatten()
    by_parameter: dict[str, list[Place]] = {}
    for place in stream.places:
        by_parameter.setdefault(place.parameter, []).append(place)
    old = {name: model.get_parameter(name) for name in by_parameter}
    new = {id(old[name]): _cut(old[name], places, len(removed), kept) for name, places in by_parameter.items()}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if id(parameter) in new:
                setattr(module, name, new[id(parameter)])
                _resize(module)


def _cut(parameter: nn.Parameter, places: list[Place], count: int, kept: Int[Tensor, " kept"]) -> nn.Parameter:
    values = parameter.detach()
    for place in places:
        index = left_of(place.starts, values.shape[place.dimension], count, kept)
        values = values.index_select(place.dimension, index.to(values.device))
    return nn.Parameter(values.contiguous(), requires_grad=parameter.requires_grad)


def left_of(starts: tuple[int, ...], length: int, count: int, kept: Int[Tensor, " kept"]) -> Int[Tensor, " left"]:
    """Which of ``length`` indices are left, ``count`` channels lying at each of ``starts``."""
    gone = torch.zeros(length, dtype=torch.bool)
    for start in starts:
        gone[start : start + count] = True
        gone[start + kept] = False
    return (~gone).nonzero().flatten()


def _resize(module: nn.Module) -> None:
    """Let attributes that repeat the shape of a weight say what it is now."""
    weight = module._parameters.get("weight")
    if weight is None:
        return
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(weight.shape)
    names = next((names for kind, names in _SIZES.items() if isinstance(module, kind)), ())
    for dimension, name in enumerate(names):
        setattr(module, name, weight.shape[dimension])
