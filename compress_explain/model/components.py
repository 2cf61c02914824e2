"""What a model is made of, piece by piece: ids, sites, parameters, FLOPs, dependencies.

Components that meet the residual stream at one site form a :class:`Group`; a component is one
member of a group and is named ``<group>.<index>``, always in the coordinates of the original
model. FLOPs are two per multiply-add, for one example of a given number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Producer:
    """A linear whose outputs belong to a group, in consecutive blocks: ``widths`` outputs a component in each.

    ``reader`` is whether the residual stream is all that it reads; one that is also, or only, given
    something else is not fitted to what is left of the stream.
    """

    module: str
    widths: tuple[int, ...]
    reader: bool = True

    @property
    def width(self) -> int:
        """Outputs of one component in all blocks."""
        return sum(self.widths)

    @property
    def blocks(self) -> int:
        return len(self.widths)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Components of one kind that meet at one site.

    ``width`` input coordinates of the ``site`` linear belong to each component, consecutively.
    ``parameters`` and ``flops`` are what removing one component saves. ``scale`` is a vector that
    multiplies what the site gives before it is added to the residual stream. The ``attention``
    module remembers the numbers in ``sizes``, each so much a component; ``lent_bias`` is the argument
    through which it is given a position bias of one column a component.
    """

    name: str
    kind: str
    count: int
    width: int
    site: str
    producers: tuple[Producer, ...]
    parameters: int
    flops: int
    scale: str | None = None
    attention: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    position_bias: str | None = None
    lent_bias: str | None = None

    @cached_property
    def components(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{index}" for index in range(self.count))

    @property
    def readers(self) -> tuple[tuple[Producer, ...], ...]:
        """Its readers, those that read the same input together: a cross-attention's query reads another than the rest."""
        readers = tuple(producer for producer in self.producers if producer.reader)
        if ".cross_attention." in self.name:
            return readers[:1], readers[1:]
        return (readers,)

    @property
    def adds(self) -> str:
        """The module whose output is added to the residual stream."""
        return self.scale.rpartition(".")[0] if self.scale else self.site

    def rows(self, producer: Producer, kept: Int[Tensor, " kept"]) -> Int[Tensor, " rows"]:
        """The outputs of ``producer`` that belong to the members ``kept``."""
        starts = accumulate((self.count * width for width in producer.widths), initial=0)
        return torch.cat(
            [start + _coordinates(kept, width) for start, width in zip(starts, producer.widths, strict=False)]
        )

    def columns(self, kept: Int[Tensor, " kept"]) -> Int[Tensor, " columns"]:
        """The inputs of the site that belong to the members ``kept``."""
        return _coordinates(kept, self.width)

    @property
    def layer(self) -> str:
        """``encoder.layer.3`` of ``encoder.layer.3.attention.head``."""
        return ".".join(self.name.split(".")[:3])


@dataclass(frozen=True, kw_only=True)
class Linear:
    """One weight matrix, a component for quantization and low rank: ``encoder.layer.2.attention.query``.

    One example sends ``tokens`` rows through it. ``shared`` is whether all examples of a batch share
    some of them: then no edit of it can be linearised example by example.
    """

    name: str
    module: str
    inputs: int
    outputs: int
    tokens: int
    parameters: int
    flops: int
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """An attention or feed-forward sublayer: the components that it is made of.

    Taking it out leaves nothing of it: ``parameters`` counts its linears with their biases, and
    ``around``, the modules that only it needs: the norm before it and the scale behind it. A norm
    that stands after the addition stays.
    """

    name: str
    groups: tuple[str, ...]
    linears: tuple[str, ...]
    parameters: int
    flops: int
    around: tuple[str, ...] = ()

    kind: ClassVar[str] = "sublayer"
    count: ClassVar[int] = 1

    @property
    def components(self) -> tuple[str, ...]:
        """Itself: it is a component like others."""
        return (self.name,)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a stack and its sublayers; ``module`` is its path in the model.

    ``norm`` is that of :class:`~compress_explain.families.Stack`. Taking it out hands the stream on
    as it came, norms included; one that ``stays`` cannot be taken out.
    """

    name: str
    module: str
    norm: Literal["before", "after"]
    sublayers: tuple[str, ...]
    parameters: int
    flops: int
    stays: bool = False

    kind: ClassVar[str] = "layer"
    count: ClassVar[int] = 1

    @property
    def components(self) -> tuple[str, ...]:
        """Itself: it is a component like others."""
        return (self.name,)

    @property
    def stack(self) -> str:
        """``encoder`` of ``encoder.layer.3``."""
        return self.name.split(".")[0]


def _coordinates(kept: Int[Tensor, " kept"], width: int) -> Int[Tensor, " coordinates"]:
    """Coordinates of the kept components, ``width`` each."""
    return (kept[:, None] * width + torch.arange(width)).flatten()
