"""What a model takes, component by component: FLOPs, parameters, bytes of the deployed file, milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch import Tensor

from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.model.anatomy import Anatomy, Group, Linear, Ranks
from compress_explain.model.embedding import TOKENS
from compress_explain.model.stream import without_channels
from compress_explain.weight_edits import WeightEdit, weights_saved

FLOAT_BYTES = 4


@runtime_checkable
class Meter(Protocol):
    """Counts what a model takes: so much for each group, by how many components it has left, and the rest."""

    @property
    def unit(self) -> str:
        """One of what is counted: ``FLOP``."""
        ...

    @property
    def original(self) -> float:
        """What a share of it is a share of."""
        ...

    def of(self, group: str, left: int) -> float:
        """What a group takes with ``left`` components; never less with more of them."""
        ...

    def rest(self, removed: Mapping[str, Tensor]) -> float:
        """What no removal at a site changes."""
        ...

    def thinner(self, linear: Linear, rank: int) -> float:
        """What two linears of a rank take less than one; 0 where two are not smaller."""
        ...


def taken(meter: Meter, removed: Mapping[str, Tensor], anatomy: Anatomy) -> float:
    """What the model takes in all when the flagged components are gone."""
    left = {name: group.count - int(removed[name].sum()) for name, group in anatomy.groups.items()}
    return meter.rest(removed) + sum(meter.of(name, count) for name, count in left.items())


@dataclass(frozen=True)
class Flops:
    """FLOPs of all layers; linears of ``ranks`` are two each, and so many ``channels`` of the stream are gone."""

    anatomy: Anatomy = field(repr=False)
    ranks: Ranks = field(default_factory=dict, repr=False)
    channels: int = 0

    @property
    def unit(self) -> str:
        return "FLOP"

    @property
    def original(self) -> float:
        return float(self.anatomy.flops)

    def of(self, group: str, left: int) -> float:
        thinner = sum(self.thinner(linear, rank) for linear, rank in _factored(self.anatomy, self.ranks, group, left))
        return float(self._now.groups[group].flops * left) - thinner

    def rest(self, removed: Mapping[str, Tensor]) -> float:
        return float(self._now.flops) - sum(group.flops * group.count for group in self._now.groups.values())

    @cached_property
    def _now(self) -> Anatomy:
        return without_channels(self.anatomy, self.channels)

    def thinner(self, linear: Linear, rank: int) -> float:
        return 2.0 * linear.tokens * weights_saved(linear.outputs, linear.inputs, rank)


@dataclass(frozen=True)
class Parameters:
    """All parameters, those outside the layers too; linears of ``ranks`` are two each, and so many ``channels`` are gone."""

    anatomy: Anatomy = field(repr=False)
    ranks: Ranks = field(default_factory=dict, repr=False)
    channels: int = 0

    @property
    def unit(self) -> str:
        return "parameter"

    @property
    def original(self) -> float:
        return float(self.anatomy.parameters)

    def of(self, group: str, left: int) -> float:
        thinner = sum(self.thinner(linear, rank) for linear, rank in _factored(self.anatomy, self.ranks, group, left))
        return float(self._now.groups[group].parameters * left) - thinner

    def rest(self, removed: Mapping[str, Tensor]) -> float:
        at_sites = sum(group.parameters * group.count for group in self._now.groups.values())
        return float(self._now.parameters) - at_sites - _rows_gone(removed) * _row(self._now)

    @cached_property
    def _now(self) -> Anatomy:
        return without_channels(self.anatomy, self.channels)

    def thinner(self, linear: Linear, rank: int) -> float:
        return float(weights_saved(linear.outputs, linear.inputs, rank))


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How the file that will be deployed stores weights: linears under an ``edit``, the token embedding in ``table_bits``."""

    edit: WeightEdit | None = None
    table_bits: int = 32


@dataclass(frozen=True)
class Bytes:
    """Bytes of the weights as the deployed file will store them; the original's are in float32. Linears of ``ranks`` are two each.

    So many ``channels`` of the stream are gone.
    """

    anatomy: Anatomy = field(repr=False)
    storage: Storage
    ranks: Ranks = field(default_factory=dict, repr=False)
    channels: int = 0

    @property
    def unit(self) -> str:
        return "byte"

    @property
    def original(self) -> float:
        return float(FLOAT_BYTES * self.anatomy.parameters)

    def of(self, group: str, left: int) -> float:
        thinner = sum(self.thinner(linear, rank) for linear, rank in _factored(self.anatomy, self.ranks, group, left))
        return self._each[group] * left - thinner

    def thinner(self, linear: Linear, rank: int) -> float:
        if not weights_saved(linear.outputs, linear.inputs, rank):
            return 0.0
        whole = linear.outputs * linear.inputs * self._of_weight(self.anatomy.linears[linear.name])
        parts = ((rank, linear.inputs), (linear.outputs, rank))
        edit = self.storage.edit
        return whole - sum(FLOAT_BYTES * n * m if edit is None else edit.bytes_of(n, m) for n, m in parts)

    def rest(self, removed: Mapping[str, Tensor]) -> float:
        rows = 0 if self._now.embedding is None else self._now.embedding.count - _rows_gone(removed)
        others = Parameters(self._now).rest(removed) - rows * _row(self._now)
        return FLOAT_BYTES * others + rows * _row(self._now) * self.storage.table_bits / 8

    @cached_property
    def _now(self) -> Anatomy:
        return without_channels(self.anatomy, self.channels)

    @cached_property
    def _each(self) -> dict[str, float]:
        """Bytes of one component, by group."""
        by_module = {linear.module: linear for linear in self._now.linears.values()}
        return {name: self._component(group, by_module) for name, group in self._now.groups.items()}

    def _component(self, group: Group, linears: Mapping[str, Linear]) -> float:
        parts = [(linears[each.module], linears[each.module].inputs * each.width) for each in group.producers]
        parts.append((linears[group.site], linears[group.site].outputs * group.width))
        others = group.parameters - sum(weights for _, weights in parts)
        return FLOAT_BYTES * others + sum(weights * self._of_weight(linear) for linear, weights in parts)

    def _of_weight(self, linear: Linear) -> float:
        edit = self.storage.edit
        if edit is None:
            return float(FLOAT_BYTES)
        return edit.bytes_of(linear.outputs, linear.inputs) / (linear.outputs * linear.inputs)


@dataclass(frozen=True)
class Milliseconds:
    """Milliseconds that one call is predicted to take on this machine."""

    table: LatencyTable = field(repr=False)

    @property
    def unit(self) -> str:
        return "millisecond"

    @property
    def original(self) -> float:
        return self.table.original.median

    def of(self, group: str, left: int) -> float:
        return self.table.of(group, left)

    def rest(self, removed: Mapping[str, Tensor]) -> float:
        return self.table.rest

    def thinner(self, linear: Linear, rank: int) -> float:
        return 0.0  # nobody has timed it


def _factored(anatomy: Anatomy, ranks: Ranks, group: str, left: int) -> Iterator[tuple[Linear, int]]:
    """The factored linears around a group of which ``left`` components are there, in the shape that is left, each with its rank."""
    own = anatomy.groups[group]
    gone = own.count - left
    for name, rank in ranks.items():
        linear = anatomy.linears[name]
        outputs = linear.outputs - gone * sum(each.width for each in own.producers if each.module == linear.module)
        inputs = linear.inputs - gone * own.width * (own.site == linear.module)
        if linear.module in (own.site, *(each.module for each in own.producers)):
            yield replace(linear, outputs=outputs, inputs=inputs), rank


def _rows_gone(removed: Mapping[str, Tensor]) -> int:
    """Rows of the token embedding that are removed."""
    return int(removed[TOKENS].sum()) if TOKENS in removed else 0


def _row(anatomy: Anatomy) -> int:
    """Parameters of one of them."""
    return 0 if anatomy.embedding is None else anatomy.embedding.parameters
