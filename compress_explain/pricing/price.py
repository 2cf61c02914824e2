"""The expected impact of every edit of a menu, in one pass over the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.pricing.engine import Engine, Local, carry_out
from compress_explain.pricing.menu import Menu, menu_of_kinds
from compress_explain.pricing.prices import Prices
from compress_explain.pricing.refine import Refinement
from compress_explain.pricing.sums import Sums, over_examples
from compress_explain.pricing.work import Pricing

PROJECTIONS = 4  # of the logits of a language model
MOVES = 1024  # numbers that are usually enough to tell what edits do together


def price(
    masks: Masks,
    examples: Examples,
    *,
    menu: Menu | None = None,
    kinds: Sequence[str] = (),
    batch_size: int = 32,
    refinement: Refinement | None = None,
    flow: bool = False,
    projections: int | None = None,
    moves: int = 0,
    engine: Engine | None = None,
    store: Path | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda rows: None,
) -> Prices:
    """Price every edit of ``menu`` (removal of all components of ``kinds`` when there is none) that can be made.

    What lies in a sublayer or layer that is gone is left out.

    Heads, neurons and weight edits are linearised; with ``refinement`` its kinds are priced
    exactly on the rows that carry the loss. Sublayers and layers are priced exactly. A language
    model takes ``projections`` random projections of its logits. Memory does not grow with the
    number of examples. With ``moves`` each edit's moves are kept in that many numbers, of classifiers.
    ``store`` keeps finished shards, so that a stopped call continues there;
    ``advance`` is told how many rows were done.

    Raises:
        InputError: the model has no component of ``kinds``.
    """
    pricing = Pricing(
        masks=masks,
        examples=examples,
        menu=(menu or menu_of_kinds(masks.anatomy, kinds)).left(masks.gone),
        batch_size=batch_size,
        refinement=None if examples.tokenwise else refinement,
        flow=flow,
        projections=projections or (PROJECTIONS if examples.tokenwise else None),
        moves=0 if examples.tokenwise else moves,
        seed=seed,
    )
    return _table(pricing, over_examples(carry_out(pricing, engine or Local(), store, advance)))


def _table(pricing: Pricing, sums: Sums) -> Prices:
    menu = pricing.menu
    removed = [torch.zeros(0, dtype=torch.bool)] + [pricing.masks.removed[group.name] for group in menu.groups]
    parameters, flops, weight_bytes = menu.savings(pricing.masks.removed, pricing.masks.ranks)
    known = np.where(np.arange(len(menu.components)) < sum(group.count for group in menu.groups), 1.0, np.nan)
    flow = known if pricing.flow or pricing.projections else np.full_like(known, np.nan)
    return Prices(
        components=menu.components,
        kinds=menu.kinds,
        edits=menu.edits(torch.cat(removed).tolist()),
        slices=pricing.examples.slice_names,
        counts=tuple(int(count) for count in sums.units),
        values=sums.means(),
        standard_error=sums.standard_error(),
        parameters=parameters,
        flops=flops,
        bytes=weight_bytes,
        methods=_methods(pricing),
        moves=(sums.moves / sums.units[0].clamp(min=1).sqrt()).numpy() if pricing.moves else None,
        flow=flow * sums.flow.numpy() / max(1.0, float(sums.units[0])),
    )


def _methods(pricing: Pricing) -> tuple[str, ...]:
    """How each column was priced."""
    menu, refinement = pricing.menu, pricing.refinement
    if pricing.projections is not None:
        first = [f"gauss-newton-{pricing.projections}"] * menu.linearisable
    else:
        refined = {kind for kind in set(menu.kinds) if refinement is not None and refinement.passes(kind) > 0}
        first = ["two-phase" if kind in refined else "linear" for kind in menu.kinds[: menu.linearisable]]
    return (*first, *["exact"] * len(menu.wholes))
