"""Which edits are to be priced: removal of components of some kinds, weight edits of every linear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch

from compress_explain.errors import InputError, did_you_mean
from compress_explain.model.anatomy import Anatomy, Group, Layer, Linear, Ranks, Removed, Sublayer
from compress_explain.weight_edits import WeightEdit, weight_edit

FLOAT_BYTES = 4  # weights of the original, in float32
_GROUPED = {"heads": ("head", "kv_group"), "neurons": ("neuron",)}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One edit that could be made: ``edit`` is ``remove``, ``restore`` or the name of a weight edit."""

    component: str
    kind: str
    edit: str


@dataclass(frozen=True, kw_only=True)
class Menu:
    """Every edit of one pricing, in the order of its table: groups, linears, sublayers, layers, shared linears.

    What all examples of a batch share of a linear cannot be linearised example by example: the
    edits of ``shared_linears`` are priced exactly, like those of whole sublayers. ``own_edits`` are the edits of
    some linears, by name, where these are not the same for all.
    """

    anatomy: Anatomy = field(repr=False)
    groups: tuple[Group, ...] = field(default=(), repr=False)
    linears: tuple[Linear, ...] = field(default=(), repr=False)
    weight_edits: tuple[WeightEdit, ...] = ()
    sublayers: tuple[Sublayer, ...] = field(default=(), repr=False)
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    shared_linears: tuple[Linear, ...] = field(default=(), repr=False)
    own_edits: Mapping[str, tuple[WeightEdit, ...]] = field(default_factory=dict, repr=False)

    @property
    def linearisable(self) -> int:
        """How many of the columns, the first ones, a linearisation prices."""
        return sum(group.count for group in self.groups) + len(self._pairs)

    @property
    def wholes(self) -> list[Candidate]:
        """What is priced exactly: sublayers and layers, too large for a linearisation, and shared linears."""
        found = [Candidate(component=each.name, kind="sublayer", edit="remove") for each in self.sublayers]
        found += [Candidate(component=each.name, kind="layer", edit="remove") for each in self.layers]
        pairs = [(linear, edit) for linear in self.shared_linears for edit in self.weight_edits]
        return found + [Candidate(component=linear.name, kind="linear", edit=edit.name) for linear, edit in pairs]

    @property
    def edits_of_linears(self) -> dict[str, tuple[WeightEdit, ...]]:
        """Each linear by name, with the edits of its weight."""
        return {linear.name: self.own_edits.get(linear.name, self.weight_edits) for linear in self.linears}

    @cached_property
    def _pairs(self) -> list[tuple[Linear, WeightEdit]]:
        """Each linear with each of its edits."""
        return [(linear, edit) for linear in self.linears for edit in self.edits_of_linears[linear.name]]

    @property
    def names(self) -> str:
        """The menu in the words of the command line: ``heads,neurons,linears:int8``."""
        kinds = {group.kind for group in self.groups}
        words = [word for word, its in _GROUPED.items() if kinds & set(its)]
        words += ["sublayers"] * bool(self.sublayers) + ["layers"] * bool(self.layers)
        own = {edit.name: None for edits in self.own_edits.values() for edit in edits}
        return ",".join(words + [f"linears:{name}" for name in [*(edit.name for edit in self.weight_edits), *own]])

    @cached_property
    def components(self) -> tuple[str, ...]:
        names = [component for group in self.groups for component in group.components]
        names += [linear.name for linear, _ in self._pairs]
        return tuple(names + [each.component for each in self.wholes])

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        kinds = [group.kind for group in self.groups for _ in range(group.count)]
        kinds += ["linear"] * len(self._pairs)
        return tuple(kinds + [each.kind for each in self.wholes])

    def edits(self, removed: Sequence[bool]) -> tuple[str, ...]:
        """The edit of each column; ``removed`` flags the grouped components that are off now."""
        names = ["restore" if off else "remove" for off in removed]
        names += [edit.name for _, edit in self._pairs]
        return tuple(names + [each.edit for each in self.wholes])

    def left(self, gone: Callable[[str], bool]) -> Menu:
        """The menu without what lies in a unit that is ``gone``, asked by name."""
        return replace(
            self,
            groups=tuple(each for each in self.groups if not gone(each.name)),
            linears=tuple(each for each in self.linears if not gone(each.name)),
            sublayers=tuple(each for each in self.sublayers if not gone(each.name)),
            layers=tuple(each for each in self.layers if not gone(each.name)),
            shared_linears=tuple(each for each in self.shared_linears if not gone(each.name)),
        )

    def savings(
        self, removed: Removed = MappingProxyType({}), ranks: Ranks = MappingProxyType({})
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parameters, FLOPs and weight bytes that each edit saves (a restoration costs what it shows).

        Of a sublayer or layer that is what is still there when the ``removed`` components are gone; what is
        factored takes what its ``ranks`` say.
        """
        costs = [self.anatomy.costs(each.name, ranks, removed) for each in self.groups]
        whole = [(parameters, flops, FLOAT_BYTES * parameters) for parameters, flops in costs]
        counts = [group.count for group in self.groups]
        units = [each.component for each in self.wholes if each.kind != "linear"]
        whole += [_unit_savings(self.anatomy, unit, removed, ranks) for unit in units]
        linears = [_linear_savings(linear, edit) for linear, edit in self._pairs]
        shared = [_linear_savings(linear, edit) for linear in self.shared_linears for edit in self.weight_edits]
        grouped = np.repeat(_rows(whole[: len(counts)]), counts, axis=0)
        table = np.concatenate([grouped, _rows(linears), _rows(whole[len(counts) :]), _rows(shared)])
        return table[:, 0], table[:, 1], table[:, 2]


def _rows(savings: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(savings, dtype=np.int64).reshape(-1, 3)


def _unit_savings(anatomy: Anatomy, unit: str, removed: Removed, ranks: Ranks) -> tuple[int, int, int]:
    gone = {**removed, unit: torch.ones(1, dtype=torch.bool)}
    before, after = anatomy.saved(removed, ranks), anatomy.saved(gone, ranks)
    return after[0] - before[0], after[1] - before[1], FLOAT_BYTES * (after[0] - before[0])


def _linear_savings(linear: Linear, edit: WeightEdit) -> tuple[int, int, int]:
    shape = (linear.outputs, linear.inputs)
    weights = linear.outputs * linear.inputs
    return (
        weights - edit.parameters_of(*shape),
        linear.tokens * (2 * weights - edit.flops_per_token(*shape)),
        FLOAT_BYTES * weights - edit.bytes_of(*shape),
    )


def menu_of_kinds(anatomy: Anatomy, kinds: Sequence[str] = ()) -> Menu:
    """Removal of every component of ``kinds``; when empty, of every head, key-value group and neuron.

    Raises:
        InputError: the model has no component of ``kinds``.
    """
    groups = tuple(group for group in anatomy.groups.values() if not kinds or group.kind in kinds)
    sublayers = tuple(anatomy.sublayers.values()) if Sublayer.kind in kinds else ()
    layers = tuple(anatomy.layers.values()) if Layer.kind in kinds else ()
    if not (groups or sublayers or layers):
        raise InputError(
            "kinds", list(kinds), "this model has no such components", f"choose from {', '.join(anatomy.kinds)}"
        )
    return Menu(anatomy=anatomy, groups=groups, sublayers=sublayers, layers=layers)


def menu_of_linears(anatomy: Anatomy, weight_edits: Sequence[WeightEdit]) -> Menu:
    """Each of ``weight_edits`` on every linear."""
    linears = list(anatomy.linears.values()) if weight_edits else []
    return Menu(
        anatomy=anatomy,
        linears=tuple(linear for linear in linears if not linear.shared),
        weight_edits=tuple(weight_edits),
        shared_linears=tuple(linear for linear in linears if linear.shared),
    )


def read_menu(anatomy: Anatomy, text: str) -> Menu:
    """The menu that ``heads,neurons,sublayers,layers,linears:int8,linears:rank64`` describes.

    Raises:
        InputError: a word that is no kind of edit, twice the same one, or none at all.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise InputError("edits", text, "no edit, or one of them twice", "e.g. heads,neurons,linears:int8")
    kinds = [kind for word in words for kind in _GROUPED.get(word, ())]
    weight_edits = tuple(weight_edit(word.removeprefix("linears:")) for word in words if word.startswith("linears:"))
    for word in words:
        if word not in (*_GROUPED, "sublayers", "layers") and not word.startswith("linears:"):
            known = [*_GROUPED, "sublayers", "layers", "linears:int8", "linears:int4", "linears:rank64"]
            raise InputError("edits", word, "no such kind of edit", did_you_mean(word, known))
    return replace(
        menu_of_linears(anatomy, weight_edits),
        groups=tuple(group for group in anatomy.groups.values() if group.kind in kinds),
        sublayers=tuple(anatomy.sublayers.values()) if "sublayers" in words else (),
        layers=tuple(anatomy.layers.values()) if "layers" in words else (),
    )
