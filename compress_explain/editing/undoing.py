"""Undoing edits for a moment: some of them, or what the weights of now were fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from compress_explain.editing.masks import Masks


@contextmanager
def restored(masks: Masks, components: Iterable[str]) -> Iterator[None]:
    """Inside it these are back: components as they were, linears unrounded and in one; nothing is refitted for that."""
    components = list(components)
    parts = [name for name in components if name not in masks.anatomy.linears]
    linears = [name for name in components if name in masks.anatomy.linears]
    rounded = {name: masks.quantized[name] for name in linears if name in masks.quantized}
    factored = {name: masks.factors[name] for name in linears if name in masks.factors}
    shelf = dict(masks.shelf)
    masks.restore([*parts, *rounded])
    masks.restore(factored)
    try:
        yield
    finally:
        masks.factorize(factored)
        masks.quantize(rounded)
        around = [unit.name for unit in masks.units]  # with which a part of them would count as gone already
        masks.restore(around)
        masks.remove([*parts, *around])
        masks.shelf = shelf


@contextmanager
def unfitted(masks: Masks) -> Iterator[None]:
    """Inside it what is left has its own weights, as if nothing had been refitted or tuned; factors stay."""
    refits = masks.refits
    masks.refit({}, masks.factors, anew=False)
    try:
        yield
    finally:
        masks.refit(refits, masks.factors, anew=False)
