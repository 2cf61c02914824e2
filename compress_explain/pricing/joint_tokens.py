"""The expected effect of a whole plan on every word or token that a model decides on.

A backward pass gives the slope of one logit under many edits; a plan is one edit that moves many
logits, so its slope is taken forwards: the strength of the plan is a dual number, half one and with the
derivative one, and one pass gives the move of every logit at every position (forward-mode automatic
differentiation, Wengert 1964). What that does to loss, KL and flips is then exact, as for rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from compress_explain.data.examples import Batch, Examples
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import Group
from compress_explain.model.heads import logits_in
from compress_explain.pricing.channels import channels_move, of_channels
from compress_explain.pricing.exact import logits_tried, masked
from compress_explain.pricing.impact import TokenImpact
from compress_explain.pricing.slopes import wide
from compress_explain.weight_edits import Prepared, WeightEdit

SUMMED = ("loss_change", "kl", "flips_to_wrong", "flips_to_right")


def summed_over_tokens(
    masks: Masks,
    examples: Examples,
    components: Sequence[str],
    linears: Mapping[str, WeightEdit],
    strength: float,
    batch_size: int,
    advance: Callable[[int], None],
) -> Tensor:
    """Sums ``(slices, impacts)`` of :data:`SUMMED` over all decisions, of switching ``components`` and editing ``linears``.

    What each sublayer or layer does by itself is observed, and added.
    """
    units = [name for name in components if name in masks.anatomy.units]
    channels = of_channels(components)
    parts = [name for name in components if name not in (*units, *channels)]
    totals = torch.zeros(len(examples.slices), len(SUMMED), dtype=torch.float64)
    for batch in examples.batches(batch_size):
        with torch.no_grad(), masked(masks):
            before = wide(examples.decided_on(batch, logits_in(masks.model(**batch.inputs))))
        move = _move(masks, examples, batch, parts, linears, strength) if parts or linears else torch.zeros_like(before)
        if channels:
            move += channels_move(masks, examples, batch, channels)
        for logits in logits_tried(masks, batch, units, {}):
            move += examples.decided_on(batch, logits) - before
        targets, valid = examples.targets(batch)
        impact = TokenImpact(before, targets).of(before + move)
        values = torch.stack([(impact[name] * valid).sum(1) for name in SUMMED], 1)  # (batch, impacts)
        totals += (examples.slice_matrix(batch.rows).to(values.dtype) @ values).double()
        advance(len(batch.rows))
    return totals


def _move(
    masks: Masks,
    examples: Examples,
    batch: Batch,
    components: Sequence[str],
    linears: Mapping[str, WeightEdit],
    strength: float,
) -> Tensor:
    """How a plan moves the logits of a batch, to first order where it is ``strength`` of the way."""
    with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), masked(masks):
        way = forward_ad.make_dual(torch.tensor(strength), torch.tensor(1.0))
        start = forward_ad.make_dual(torch.tensor(0.0), torch.tensor(1.0))
        with ExitStack() as stack:
            for group, flags in _switched(masks, components).items():
                stack.enter_context(_part_of_the_way(masks, masks.anatomy.groups[group], flags, way))
            for name, edit in linears.items():
                module = masks.model.get_submodule(masks.anatomy.linears[name].module)
                stack.enter_context(_towards(module, masks.prepared(name, edit), start))
            logits = examples.decided_on(batch, logits_in(masks.model(**batch.inputs)))
            move = forward_ad.unpack_dual(logits).tangent
        assert move is not None, "every edit of a plan reaches the logits"
        return wide(move)


def _switched(masks: Masks, components: Sequence[str]) -> dict[str, Tensor]:
    flags: dict[str, Tensor] = {}
    for component in components:
        group, index = masks.anatomy.locate(component)
        flags.setdefault(group.name, torch.zeros(group.count))[index] = 1.0
    return flags


@contextmanager
def _part_of_the_way(masks: Masks, group: Group, flags: Tensor, way: Tensor) -> Iterator[None]:
    """Inside it the flagged components of a group are ``way`` towards their other state."""
    attached = masks.attached
    masks.detach_from(group)
    here = (~masks.removed[group.name]).float()

    def scale(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept = here + flags * way * (1 - 2 * here)
        return (inputs[0] * kept.repeat_interleave(group.width).to(inputs[0].dtype), *inputs[1:])

    hook = masks.model.get_submodule(group.site).register_forward_pre_hook(scale)
    try:
        yield
    finally:
        hook.remove()
        if attached:
            masks.attach_to(group)


@contextmanager
def _towards(module: nn.Module, prepared: Prepared, start: Tensor) -> Iterator[None]:
    """Inside it a linear sets out from what it gives now to what it gives when its weight is edited."""

    def move(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x, y = (forward_ad.unpack_dual(value).primal for value in (inputs[0], output))
        return output + (start * wide(prepared.delta(x, y))).to(output.dtype)

    hook = module.register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()
