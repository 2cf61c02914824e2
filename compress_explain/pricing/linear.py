"""To first order: one backward pass a logit moves every example's logits under every edit at once.

Removing a component subtracts its share x of a linear's input, which moves logit k by
-<x, dz_k/dx> over the component's coordinates; a removed component has a gradient too, and putting
it back moves the logits by +<x, dz_k/dx>. Replacing a weight W by W' moves logit k by
<(W' - W) x, dz_k/dy> at the linear's output y. Only differences of logits matter, so the first
choice stands still and K choices take K - 1 backward passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from compress_explain.data.examples import Batch, Examples
from compress_explain.pricing.decision import Decision, decide
from compress_explain.pricing.impact import Impact, impact_of_change, softened, with_first
from compress_explain.pricing.slopes import Slopes, frozen

_TOGETHER = 1 << 27  # bytes of gradients that wait for one another, so that small models do not take many small steps


@dataclass(frozen=True)
class Linearised:
    """One batch: its decision, and block by block how each edit moves it.

    Each block of ``changes`` is ``(batch, columns, choices - 1)``: the change of each logit but the
    first, less that of the first. ``flow`` holds, for each group, the squared norm of the loss
    gradient at each component (batch, components), when it was asked for; ``reach``, for the groups
    it was asked for, how far each component could move the choices (:meth:`Slopes.reach`).
    """

    batch: Batch
    decision: Decision
    changes: list[Tensor]
    flow: list[Tensor]
    reach: dict[int, Tensor] = field(default_factory=dict)

    def impacts(self) -> Iterator[Impact]:
        """Block by block, the impact of each edit on each example, ``(batch, columns)``."""
        for change in self.changes:
            yield impact_of_change(self.decision, change)

    def softened(self) -> Iterator[Float[Tensor, "batch columns softened"]]:
        """Block by block, how each edit moves the softened predictions (:func:`~.impact.softened`)."""
        for change in self.changes:
            yield softened(self.decision, change)

    def moves(self) -> Iterator[Float[Tensor, "batch columns choices"]]:
        """Block by block, the change of every choice's logit, the first standing still."""
        yield from map(with_first, self.changes)


def linearised(
    slopes: Slopes, examples: Examples, batches: Iterable[Batch], *, flow: bool = False, reach: Collection[int] = ()
) -> Iterator[Linearised]:
    """Linearise ``batches`` of ``examples`` one by one; enters and leaves ``slopes``.

    ``reach`` names groups, by their place, of which it is wanted.
    """
    with frozen(slopes.masks.model), slopes:
        for batch in batches:
            with torch.enable_grad():
                decision = decide(*examples.one_each(batch, slopes.logits(batch.inputs)))
                changes, sites, reached = _changes(slopes, decision, flow=flow, reach=reach)
            flows = [slopes.flow(index, gradient) for index, gradient in enumerate(sites)]
            slopes.clear()
            settled = Decision(decision.logits.detach(), decision.labels, decision.rest, decision.classes)
            yield Linearised(batch, settled, changes, flows, reached)


def _changes(
    slopes: Slopes, decision: Decision, *, flow: bool, reach: Collection[int]
) -> tuple[list[Tensor], list[Tensor], dict[int, Tensor]]:
    """The changes of the choices, (when ``flow``) the loss gradient at each group's site, and what is in ``reach``."""
    logits = decision.logits
    scalars = (logits[:, 1:] - logits[:, :1]).unbind(1)
    error = logits.detach().softmax(-1)
    error[torch.arange(len(error)), decision.labels] -= 1  # dLoss / dlogits
    weights = error[:, 1:].unbind(1)
    parts: list[list[Tensor]] = []
    sites: list[Tensor] = []
    reached: dict[int, Tensor] = {}
    waiting: list[list[Tensor]] = []
    for index, (scalar, weight) in enumerate(zip(scalars, weights, strict=True), start=1):
        waiting.append(slopes.gradients(scalar.sum(), None, last=index == len(scalars)))
        if flow:
            at_sites = waiting[-1][: len(slopes.groups)]
            weighted = [each * weight.view(-1, *[1] * (each.dim() - 1)).to(each.dtype) for each in at_sites]
            sites = [kept.add_(new) for kept, new in zip(sites, weighted, strict=True)] if sites else weighted
        if index == len(scalars) or len(waiting) >= _TOGETHER // max(1, sum(each.nbytes for each in waiting[0])):
            parts.append(slopes.contract(waiting))
            for group in reach:
                here = slopes.reach(group, [each[group] for each in waiting])
                reached[group] = reached[group] + here if group in reached else here
            waiting = []
    return [torch.cat(blocks, -1) for blocks in zip(*parts, strict=True)], sites, reached
