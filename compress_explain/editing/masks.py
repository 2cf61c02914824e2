"""Reversible edits: a component is switched off by zeroing its consumer's input at the site.

A sublayer is switched off by zeroing what it adds to the residual stream, its consumer's bias
included; a layer by handing on what came in. What they hold is gone with them, and back with them
as it was. Of a channel of the residual stream norms are computed without it, and what reads it
reads zeros (:mod:`compress_explain.editing.narrowed_stream`). A token has no site: what stands for taking it out is what the tokenizer without it makes of the texts.
No weight is ever written to, so undoing a removal gives the original back bit for bit. A linear
that is refitted to what is left computes with other weights, and its own are kept. One that is
quantized gives what the edit of its weight makes of its input; gradients pass as if it did not round. One
that is factored computes with the product of its two factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.editing.narrowed_stream import Here, narrow
from compress_explain.editing.refits import Refit, Refits, Standing, put, refittable, tunable, weights_of
from compress_explain.editing.rounded import rounded
from compress_explain.errors import EditError
from compress_explain.model.anatomy import Anatomy, Group, Layer, Ranks, Removed, Sublayer
from compress_explain.model.embedding import TOKENS
from compress_explain.model.stream import CHANNELS, channels_gone
from compress_explain.weight_edits import (
    FIRST_AND_SECOND,
    Activations,
    Factors,
    LowRank,
    Prepared,
    Spectrum,
    Twice,
    Unedited,
    WeightEdit,
    knowing,
    weight_edit,
)
from compress_explain.weight_edits.narrowed import Narrowed


class Masks:
    """The removable components of one model, each of them on or off, and the linears that were refitted.

    Used as a context manager: inside it the hooks are in place, outside it the model is untouched.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.model, self.anatomy = model, anatomy
        self.off: dict[str, Bool[Tensor, " count"]] = {
            name: torch.zeros(group.count, dtype=torch.bool) for name, group in anatomy.groups.items()
        }  # what was switched off itself; ``removed`` is all that is gone with it
        self._coordinates: dict[str, Bool[Tensor, " width"] | None] = dict.fromkeys(self.off)
        self._hooks: dict[str, torch.utils.hooks.RemovableHandle] = {}
        self._units: list[torch.utils.hooks.RemovableHandle] = []  # of sublayers, layers and channels that are off
        self._here: Here | None = None  # how far channels are there, where that is not as they are switched
        self._own = {name: weights_of(model, name) for name in dict.fromkeys([*refittable(anatomy), *tunable(model)])}
        self.refits: dict[str, Refit] = {}
        self.fitted_to: Removed = {}  # what was removed when ``refits`` were made; nothing, if there are none
        self.fitted_ranks: Ranks = {}  # which linears were factored then, to which rank
        self.quantized: dict[str, str] = {}  # by linear: the weight edit that it is under
        self.factors: dict[str, Factors] = {}  # by linear: the two that stand in its place
        self.shelf: dict[str, Factors] = {}  # by linear that was put back: the two, if they are wanted again
        self.spectra: dict[str, Spectrum] = {}  # by linear: its weight taken apart, where it may be factored
        self.activations: dict[str, Activations] = {}  # by linear: what enters it, where an edit asks for it
        self._ready: dict[str, Prepared] = {}  # the same, made ready for the weights of now
        self._rounding: dict[str, torch.utils.hooks.RemovableHandle] = {}

    def remove(self, components: Iterable[str]) -> None:
        """Switch components off.

        Raises:
            EditError: one of them is off already.
        """
        self._switch(components, off=True)

    def quantize(self, into: Mapping[str, str]) -> None:
        """Put linears under a weight edit, by name.

        Raises:
            EditError: one of them is under one already.
        """
        for name, edit in into.items():
            if name in self.quantized:
                raise EditError(f"{name} is quantized already, into {self.quantized[name]}")
            weight_edit(edit)
        self.quantized |= into
        if self.attached:
            self._round(into)

    def factorize(self, factors: Mapping[str, Factors]) -> None:
        """Let linears, by name, compute as two.

        Raises:
            EditError: one of them does already, or is quantized.
        """
        for name in factors:
            if name in self.factors or name in self.quantized:
                raise EditError(f"{name} is {'factored' if name in self.factors else 'quantized'} already")
        self.refit(self.refits, {**self.factors, **factors}, anew=False)

    def restore(self, components: Iterable[str]) -> None:
        """Switch components on again, and let linears compute in full: what is quantized unrounded, else what is factored in one.

        Raises:
            EditError: one of them is not off, or neither quantized nor factored.
        """
        components = list(components)
        linears = [name for name in components if name in self.anatomy.linears]
        for name in linears:
            if name not in self.quantized and name not in self.factors:
                raise EditError(f"{name} is not quantized, nor factored")
        self._switch([name for name in components if name not in self.anatomy.linears], off=False)
        unrounded = [name for name in linears if name in self.quantized]
        self._round_no_more(unrounded)
        self.quantized = {name: edit for name, edit in self.quantized.items() if name not in unrounded}
        whole = set(linears) - set(unrounded)
        if whole:
            self.shelf |= {name: self.factors[name] for name in whole}
            self.refit(self.refits, {name: own for name, own in self.factors.items() if name not in whole}, anew=False)

    def refit(self, refits: Refits, factors: Mapping[str, Factors] | None = None, *, anew: bool = True) -> None:
        """Let these linears compute with weights fitted to what is removed now, and all others with their own.

        Those that are factored keep their factors, or get ``factors``, by linear, and no others have any. Where the fit
        is not made ``anew``, what it was made to stays what it was.
        """
        before = self.standing.keys()
        self.refits = dict(refits)
        self.factors = self.factors if factors is None else dict(factors)
        now = self.standing
        put(self.model, {module: self._own[module] for module in before - now.keys()})
        put(self.model, now)
        self._ready.clear()
        if anew:
            self.fitted_ranks = self.ranks
            self.fitted_to = {name: flags.clone() for name, flags in self.removed.items()} if refits else {}

    @property
    def standing(self) -> Standing:
        """What modules compute with, by path, that do not compute with what they came with."""
        return {**self.refits, **{self.anatomy.linears[name].module: each for name, each in self.factors.items()}}

    @property
    def ranks(self) -> Ranks:
        """By linear that is factored: its rank."""
        return {name: each.rank for name, each in self.factors.items()}

    @property
    def saved(self) -> tuple[int, int]:
        """Parameters and FLOPs that the model of now takes less than the original."""
        return self.anatomy.saved(self.removed, self.ranks)

    @property
    def removed(self) -> Removed:
        """Which components of every group are gone, and which sublayers and layers, if any."""
        return self.anatomy.closed(self.off)

    def removed_without(self, unit: str) -> Removed:
        """What would be gone if a sublayer or layer were put back."""
        return self.anatomy.closed({**self.off, unit: torch.zeros(1, dtype=torch.bool)})

    @property
    def removed_tokens(self) -> Bool[Tensor, " count"] | None:
        """Which rows of the token embedding are gone; None while all are there."""
        flags = self.off.get(TOKENS)
        return flags if flags is not None and flags.any() else None

    @property
    def channels_here(self) -> Here:
        """1 for each channel of the stream that is there, 0 for each that is removed."""
        assert self.anatomy.stream is not None, "the channels of this model are known"
        flags = self.off.get(CHANNELS)
        return torch.ones(self.anatomy.stream.count) if flags is None else (~flags).float()

    @contextmanager
    def channels_at(self, here: Here) -> Iterator[None]:
        """Inside it, and with the masks in place, channels are there as far as this says."""
        self._here = here
        self.answer_for_units()
        try:
            yield
        finally:
            self._here = None
            self.answer_for_units(none=not self.attached)

    @property
    def units(self) -> list[Sublayer | Layer]:
        """The sublayers and layers that were switched off."""
        return [unit for name, unit in self.anatomy.units.items() if self.is_off(name)]

    def is_off(self, name: str) -> bool:
        """Whether a sublayer or layer was switched off itself; False of anything else."""
        return bool(name in self.anatomy.units and name in self.off and self.off[name].any())

    def gone(self, name: str) -> bool:
        """Whether a sublayer or layer is gone, or what holds it, or for a group or linear its sublayer or layer."""
        layer = ".".join(name.split(".")[:3])
        return any(self.is_off(each) for each in (name, name.rpartition(".")[0], layer))

    def removed_after(self, more: Iterable[str], fewer: Iterable[str]) -> Removed:
        """What would be gone with ``more`` components off and ``fewer``; linears and tokens aside."""
        flags = {name: each.clone() for name, each in self.off.items()}
        for off, components in ((True, more), (False, fewer)):
            for component in (each for each in components if each not in self.anatomy.linears):
                part, index = self.anatomy.find(component)
                if part.name != TOKENS:
                    flags.setdefault(part.name, torch.zeros(part.count, dtype=torch.bool))[index] = off
        return self.anatomy.closed(flags)

    def own_weights(self, module: str) -> Refit:
        """What a linear or norm came with."""
        return self._own[module]

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Inside it the model is the original."""
        attached, rounding = self.attached, list(self._rounding)
        self.detach()
        self._round_no_more(rounding)
        put(self.model, {module: self._own[module] for module in self.standing})
        try:
            yield
        finally:
            put(self.model, self.standing)
            self._round(rounding)
            if attached:
                self.attach()

    def is_removed(self, component: str) -> bool:
        part, index = self.anatomy.find(component)
        removed = self.removed
        return part.name in removed and bool(removed[part.name][index])

    @property
    def components(self) -> list[str]:
        """Every component that was switched off, in the order of the anatomy, units last."""
        return [
            self.anatomy.part(name).components[index]
            for name, flags in self.off.items()
            for index in flags.nonzero().flatten().tolist()
        ]

    def coordinates(self, group: Group) -> Bool[Tensor, " width"] | None:
        """The site's input coordinates that are zeroed; None when nothing of the group is removed."""
        return self._coordinates[group.name]

    def silent(self, components: Iterable[str], batch: dict[str, Tensor]) -> list[str]:
        """Those of ``components`` whose unmasked output is exactly zero on ``batch``.

        Removing such a component cannot change anything: either it is dead, or the edit does not
        reach what it claims to reach.

        Raises:
            EditError: a site never saw the batch, so its masks have no effect.
        """
        alive: dict[str, Bool[Tensor, " count"]] = {}

        def look(group: Group) -> object:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                seen = (inputs[0] != 0).flatten(0, -2).any(0).view(group.count, group.width).any(1).cpu()
                alive[group.name] = alive.get(group.name, torch.zeros_like(seen)) | seen

            return self.model.get_submodule(group.site).register_forward_pre_hook(hook, prepend=True)

        located = [(component, *self.anatomy.locate(component)) for component in components]
        groups = {group.name: group for _, group, _ in located}
        handles = [look(group) for group in groups.values()]
        try:
            with torch.inference_mode():
                self.model(**batch)
        finally:
            for handle in handles:
                handle.remove()  # type: ignore[attr-defined]
        unreached = groups.keys() - alive.keys()
        if unreached:
            raise EditError(f"the model never ran the consumer of {sorted(unreached)[0]}: masking it has no effect")
        return [component for component, group, index in located if not alive[group.name][index]]

    def _switch(self, components: Iterable[str], *, off: bool) -> None:
        located = [(component, *self.anatomy.find(component)) for component in components]
        for _, part, _ in located:
            self.off.setdefault(part.name, torch.zeros(part.count, dtype=torch.bool))
        seen: set[tuple[str, int]] = set()
        known = self.removed if off else self.off
        for component, part, index in located:  # all are checked before any is switched
            if bool(known[part.name][index]) is off or (part.name, index) in seen:
                raise EditError(f"{component} is {'already' if off else 'not'} removed")
            if off and isinstance(part, Layer) and part.stays:
                raise EditError(f"{component} cannot be removed: a module of its own is run when it is done")
            seen.add((part.name, index))
        self._ready.clear()
        for _, part, index in located:
            self.off[part.name][index] = off
        for part in {part.name: part for _, part, _ in located}.values():
            if isinstance(part, Group):
                flags = self.off[part.name]
                with torch.inference_mode(False):  # wherever it is switched, autograd must be able to use it
                    self._coordinates[part.name] = flags.repeat_interleave(part.width) if flags.any() else None
        if self._units or (self.attached and (self.units or channels_gone(self.off))):
            self.answer_for_units()

    def _round(self, linears: Iterable[str]) -> None:
        for name in linears:
            module = self.model.get_submodule(self.anatomy.linears[name].module)
            self._rounding[name] = module.register_forward_hook(self._rounded(name))
        if self._units:
            self.answer_for_units()  # theirs is the last word

    def _round_no_more(self, linears: Iterable[str]) -> None:
        for name in linears:
            self._ready.pop(name, None)
            if name in self._rounding:
                self._rounding.pop(name).remove()

    def _rounded(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name not in self._ready:
                self._ready[name] = self._made_ready(name)
            return rounded(self._ready[name], inputs[0], output)

        return hook

    def edit_of(self, linear: str, edit: WeightEdit) -> WeightEdit:
        """``edit`` as it is to be made on ``linear``, with what is known of its input.

        Taken back is what was done last: of a linear that is quantized that, else that it is factored.
        """
        if isinstance(edit, LowRank):
            if linear in self.shelf and self.shelf[linear].rank == edit.rank:
                return edit.as_before(self.shelf[linear])
            return edit.along(self.spectra[linear]) if linear in self.spectra else edit
        if isinstance(edit, Unedited) and linear in self.factors and linear not in self.quantized:
            module = self.anatomy.linears[linear].module
            own = self.refits.get(module, self._own[module])
            return Unedited(own=own.weight, own_bias=own.bias)
        return knowing(edit, self.activations.get(linear))

    def factors_of(self, linear: str, into: str) -> Factors:
        """The two linears that an edit to a rank, by name, puts in the place of one as it computes now."""
        edit = self.edit_of(linear, weight_edit(into))
        assert isinstance(edit, LowRank), "an edit to a rank"
        values = weights_of(self.model, self.anatomy.linears[linear].module)
        return edit.linears(values.weight.detach().contiguous(), values.bias)

    def prepared(self, linear: str, edit: WeightEdit) -> Prepared:
        """``edit`` made ready on a linear as it computes now; what rounds one that is factored rounds both of its parts."""
        if self.in_two(linear) and not isinstance(edit, LowRank | Unedited):
            return self._prepared_twice(linear, edit, self.factors[linear].right)
        values = weights_of(self.model, self.anatomy.linears[linear].module)
        return self.edit_of(linear, edit).prepare(values.weight.detach().contiguous(), values.bias)

    def in_two(self, linear: str) -> bool:
        """Whether two linears will stand in the place of one: they do as long as they are smaller."""
        rank = self.factors[linear].rank if linear in self.factors else 0
        return bool(rank) and self.anatomy.weights_saved(linear, self.removed, rank) > 0

    def _prepared_twice(self, linear: str, edit: WeightEdit, right: Tensor, kept: Tensor | None = None) -> Twice:
        factors = self.factors[linear]
        known = [self.activations.get(linear + part) for part in FIRST_AND_SECOND]
        if known[0] is not None and kept is not None:
            known[0] = known[0].of(kept)
        first, second = (knowing(edit, each) for each in known)
        return Twice(first=first.prepare(right, None), second=second.prepare(factors.left, factors.bias))

    def activations_left(self) -> dict[str, Activations]:
        """What enters each linear that anything is known of, of the inputs that are left."""
        found = dict[str, Activations]()
        for name, each in self.activations.items():
            own = self.anatomy.linears.get(
                name.removesuffix(FIRST_AND_SECOND[0])
            )  # what enters a second one is no input of the model
            kept = None if own is None else self._kept(own.module)
            found[name] = each if kept is None else each.of(kept)
        return found

    def _kept(self, module: str) -> Int[Tensor, " kept"] | None:
        """Which inputs of a linear are left; None for all of them."""
        stream = self.anatomy.stream
        if stream is not None and module in stream.reads and channels_gone(self.off):
            return (~self.off[CHANNELS]).nonzero().flatten()
        for group in self.anatomy.groups.values():
            coordinates = self._coordinates[group.name]
            if group.site == module and coordinates is not None:
                return (~coordinates).nonzero().flatten()
        return None

    def _made_ready(self, name: str) -> Prepared:
        """A linear under its edit, its removed inputs being no part of it."""
        module = self.anatomy.linears[name].module
        values = weights_of(self.model, module)
        weight = values.weight.detach().contiguous()
        kept = self._kept(module)
        if kept is None or not len(kept):
            return self.prepared(name, weight_edit(self.quantized[name]))
        if self.in_two(name):
            right = self.factors[name].right[:, kept].contiguous()
            twice = self._prepared_twice(name, weight_edit(self.quantized[name]), right, kept)
            return Narrowed(kept=kept, inputs=weight.shape[1], prepared=twice)
        edit = knowing(weight_edit(self.quantized[name]), self.activations_left().get(name))
        return Narrowed(kept=kept, inputs=weight.shape[1], prepared=edit.prepare(weight[:, kept], values.bias))

    def _hook(self, group: Group) -> torch.utils.hooks.RemovableHandle:
        def zero(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            coordinates = self._coordinates[group.name]
            if coordinates is None:
                return None
            return (inputs[0].masked_fill(coordinates.to(inputs[0].device), 0.0), *inputs[1:])

        return self.model.get_submodule(group.site).register_forward_pre_hook(zero)

    @property
    def attached(self) -> bool:
        """Whether the hooks are in place."""
        return bool(self._hooks)

    def attach(self) -> None:
        """Put the hooks in place; the model now computes without the removed components."""
        for group in self.anatomy.groups.values():
            self.attach_to(group)
        self._round(self.quantized.keys() - self._rounding.keys())
        self.answer_for_units()

    def attach_to(self, group: Group) -> None:
        """Put the hook of one group in place."""
        if group.name not in self._hooks:
            self._hooks[group.name] = self._hook(group)

    def detach(self) -> None:
        """Take the hooks of removed components away."""
        self.detach_groups()
        self.answer_for_units(none=True)

    def detach_groups(self) -> None:
        """Take the hooks of removed heads and neurons away, for somebody who masks them otherwise."""
        for group in self.anatomy.groups.values():
            self.detach_from(group)

    def answer_for_units(self, *, none: bool = False) -> None:
        """Put the hooks of sublayers, layers and channels that are off in place, or take them all away."""
        while self._units:
            self._units.pop().remove()
        if not none and (self._here is not None or channels_gone(self.off)):
            with torch.inference_mode(False):  # wherever they are switched, autograd must be able to use it
                here = self.channels_here if self._here is None else self._here
                self._units += narrow(self.model, self.anatomy.stream, here)  # type: ignore[arg-type]
        for unit in () if none else self.units:
            if isinstance(unit, Layer):
                module = self.model.get_submodule(unit.module)
                self._units.append(module.register_forward_hook(_passed_on, with_kwargs=True))
            else:
                site = self.model.get_submodule(self.anatomy.groups[unit.groups[-1]].site)
                self._units.append(site.register_forward_hook(_silenced))

    def detach_from(self, group: Group) -> None:
        """Take the hook of one group away."""
        if group.name in self._hooks:
            self._hooks.pop(group.name).remove()

    def __enter__(self) -> Masks:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()
        self._round_no_more(list(self._rounding))
        self.refit({}, {})


# Hooks: not closures, which a type checker at run time would take apart each time anew.


def _silenced(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """What a sublayer that is off adds to the stream."""
    return torch.zeros_like(output)


def _passed_on(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
    """What came into a layer that is off, in the form of its usual output."""
    hidden = inputs[0] if inputs else options["hidden_states"]
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])
