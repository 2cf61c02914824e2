"""The weights of linears taken apart along what enters them on calibration rows, before any of them is factored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from compress_explain.choosing.activations import watch
from compress_explain.choosing.moments import Moments
from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.editing.refits import weights_of
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Linear
from compress_explain.plugins.strategy import Factorizing, Strategy, menu_of
from compress_explain.pricing.menu import Menu
from compress_explain.weight_edits import LowRank, Spectrum, weights_saved
from compress_explain.weight_edits.spectrum import spectrum_of


def check_shares(strategy: str, shares: object) -> None:
    """Raises InputError unless these are shares of a full rank, ever larger."""
    given = list(shares) if isinstance(shares, list | tuple) else []
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in given)
    if not given or not numbers or not all(0 < each <= 1 for each in given):
        raise InputError(
            f"strategies: {strategy}.ranks", shares, "not shares of the full rank, in (0, 1]",
            "give a list such as [0.125, 0.25, 0.5]",
        )  # fmt: skip
    if given != sorted(set(given)):
        raise InputError(f"strategies: {strategy}.ranks", shares, "not each larger than the one before", "sort them")


def linears_to_factor(masks: Masks) -> tuple[Linear, ...]:
    """Every linear that is there and neither factored nor quantized, with the outputs and inputs that are left of it.

    One that all examples of a batch share is left out: its edits cannot be priced example by example.
    """
    anatomy = masks.anatomy
    free = (linear for linear in anatomy.linears.values() if _free(masks, linear))
    return tuple(anatomy.linear_left(linear.name, masks.removed) for linear in free)


def ranks_on_offer(linears: Sequence[Linear], shares: Sequence[float]) -> dict[str, tuple[int, ...]]:
    """By linear, the ranks that are about these shares of its full rank and with which two linears are smaller than one."""
    found = dict[str, tuple[int, ...]]()
    for linear in linears:
        shape = (linear.outputs, linear.inputs)
        ranks = sorted({max(1, round(share * min(shape))) for share in shares})
        saving = tuple(rank for rank in ranks if weights_saved(*shape, rank))
        found |= {linear.name: saving} if saving else {}
    return found


def menu_now(masks: Masks, strategy: Strategy) -> Menu:
    """What a strategy chooses from, of the model as it is now.

    Raises:
        InputError: the model has nothing of the kind.
    """
    if not isinstance(strategy, Factorizing):
        return menu_of(masks.anatomy, strategy)
    linears = linears_to_factor(masks)
    ranks = ranks_on_offer(linears, strategy.ranks)
    if not ranks:
        raise InputError(
            "strategies", type(strategy).__name__.lower(), "there is no linear that two of these ranks are smaller than",
            "offer smaller ranks, or leave it out",
        )  # fmt: skip
    return Menu(
        anatomy=masks.anatomy,
        linears=tuple(linear for linear in linears if linear.name in ranks),
        own_edits={name: tuple(LowRank(rank=rank) for rank in mine) for name, mine in ranks.items()},
    )


def find_spectra(
    masks: Masks,
    examples: Examples,
    menu: Menu,
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> dict[str, Spectrum]:
    """The spectra of the linears of ``menu``, each up to its largest rank, from one pass of the model as it is now, without padding.

    Linears that read the same are looked at once. Memory: the square of its inputs in float64 for each that reads something of its own.
    """
    linears = masks.anatomy.linears
    ranks = {
        name: max(edit.rank for edit in edits if isinstance(edit, LowRank)) for name, edits in menu.own_edits.items()
    }
    first = {name: _first_reader(masks.anatomy, linears[name]) for name in ranks}
    moments = {name: Moments(linears[name].inputs) for name in dict.fromkeys(first.values())}
    modules = {name: linears[name].module for name in moments}
    watch(masks, examples, modules, batch_size, advance, lambda name, values: moments[name].add(values))
    return {name: _spectrum(masks, linears[name], moments[first[name]], ranks[name]) for name in ranks}


def _spectrum(masks: Masks, linear: Linear, moments: Moments, most: int) -> Spectrum:
    values = weights_of(masks.model, linear.module)
    mean = None if values.bias is None or not moments.count else moments.mean
    second = moments.second if mean is None else moments.second - torch.outer(mean, mean)
    rows, columns = masks.anatomy.coordinates_left(linear.name, masks.removed)
    return spectrum_of(values.weight.detach(), second, mean, rows=rows, columns=columns, most=most)


def _first_reader(anatomy: Anatomy, linear: Linear) -> str:
    """The first of the linears that read what this one reads."""
    names = {each.module: each.name for each in anatomy.linears.values()}
    for group in anatomy.groups.values():
        for readers in group.readers:
            if linear.module in [each.module for each in readers]:
                return names[readers[0].module]
    return linear.name


def _free(masks: Masks, linear: Linear) -> bool:
    taken = linear.name in masks.factors or linear.name in masks.quantized or masks.gone(linear.name)
    return not (taken or linear.shared) and all(masks.anatomy.shape_left(linear.name, masks.removed))
