"""The effect of a whole plan: what is expected of it, and what was then observed.

Logit changes of all edits are added per example and only then turned into loss, KL and flips: a
sum of single impacts would count every curvature many times. The gradient is taken half-way, with
the masks of the plan at half strength: along a path from one state to another the slope in the
middle gives the difference of the ends up to third order, the slope at its start only to second.
Of channels of the stream it is taken forwards and at three points (:mod:`compress_explain.pricing.channels`). Sublayers and
layers are too large for a slope, and a linear that all rows of a batch share has none of each row: what
each does by itself is observed, and added.
Measured on MiniLM/SST-2: docs/measurements.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import log_softmax

from compress_explain.comparison.predictions import Pairs
from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.pricing.channels import channels_move, of_channels
from compress_explain.pricing.decision import Decision, decide
from compress_explain.pricing.exact import logits_tried
from compress_explain.pricing.impact import impact_of
from compress_explain.pricing.joint_tokens import SUMMED, summed_over_tokens
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.slopes import Slopes
from compress_explain.weight_edits import WeightEdit

HALF_WAY = 0.5


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Mean change per decision over one split: loss and KL in nats, flips and accuracy as shares; of ``n`` decisions."""

    loss_change: float
    kl: float
    flips_to_wrong: float
    flips_to_right: float
    accuracy_change: float
    n: int


def expected_joint(
    masks: Masks,
    examples: Examples,
    components: Sequence[str],
    before: Float[np.ndarray, "rows classes"],
    batch_size: int,
    advance: Callable[[int], None] = lambda rows: None,
    *,
    linears: Mapping[str, WeightEdit] = MappingProxyType({}),
    strength: float = HALF_WAY,
) -> dict[str, Joint]:
    """Expected effect, per slice, of switching ``components`` and editing ``linears``, from one pass over ``examples``.

    ``before`` are the logits of the present state; of words and tokens they are computed again. The slope is taken where the masks are
    ``strength`` of the way; 0 gives the plain linearisation of the present state. Nothing is
    expected of no edits.
    """
    if not components and not linears:
        return {name: _mean([0.0] * len(SUMMED), examples.counts[name]) for name in examples.slices}
    if examples.tokenwise:
        sums = summed_over_tokens(masks, examples, components, linears, strength, batch_size, advance)
        return {
            name: _mean(row, examples.counts[name]) for row, name in zip(sums.tolist(), examples.slices, strict=True)
        }
    units = [name for name in components if name in masks.anatomy.units]
    channels, at = of_channels(components), None if strength == HALF_WAY else strength
    towards = _towards(masks, [name for name in components if name not in (*units, *channels)])
    groups = [masks.anatomy.groups[name] for name in towards]
    half_way = {name: flags * strength for name, flags in towards.items()}
    shared = {name: edit for name, edit in linears.items() if masks.anatomy.linears[name].shared}
    sloping = {name: (edit,) for name, edit in linears.items() if name not in shared}
    slopes = Slopes(masks, groups, sloping, half_way)
    taken = [*towards.values(), *[torch.ones(1)] * len(sloping)]
    totals = torch.zeros(len(examples.slices), len(SUMMED), dtype=torch.float64)
    for batch in examples.batches(batch_size):
        rows, tried = batch.rows, list(logits_tried(masks, batch, units, shared))
        if channels:
            tried.append(torch.from_numpy(before[rows]) + channels_move(masks, examples, batch, channels, at))
        (each,) = linearised(slopes, examples, [batch])
        move = torch.zeros_like(each.decision.logits)
        for flags, block in zip(taken, each.moves(), strict=True):
            move += torch.einsum("bck,c->bk", block, flags.to(block.dtype))
        started = _started(each.decision, before[rows], examples.labels[rows])
        if tried:
            now = torch.from_numpy(before[rows])
            move += started.of(now + sum(logits - now for logits in tried)) - started.logits
        impact = impact_of(started, move[:, None])
        values = torch.cat([impact[name] for name in SUMMED], dim=1)  # (batch, impacts)
        totals += (examples.slice_matrix(rows).to(values.dtype) @ values).double()
        advance(len(rows))
    return {
        name: _mean(row, int(flags.sum()))
        for row, (name, flags) in zip(totals.tolist(), examples.slices.items(), strict=True)
    }


def share_of(whole: Joint, share: float) -> Joint:
    """What is expected of a part of an edit; of undoing it, when ``share`` is negative."""
    to_wrong, to_right = abs(share) * whole.flips_to_wrong, abs(share) * whole.flips_to_right
    return Joint(
        loss_change=share * whole.loss_change,
        kl=abs(share) * whole.kl,
        flips_to_wrong=to_wrong if share >= 0 else to_right,
        flips_to_right=to_right if share >= 0 else to_wrong,
        accuracy_change=share * whole.accuracy_change,
        n=whole.n,
    )


def together(first: Joint, second: Joint) -> Joint:
    """What two edits are expected to do that do not meet: the sum, over the rows of the first."""
    summed = {each.name: getattr(first, each.name) + getattr(second, each.name) for each in fields(Joint)}
    return Joint(**{**summed, "n": first.n})


def _towards(masks: Masks, components: Sequence[str]) -> dict[str, torch.Tensor]:
    """Which components of each group are switched, as 0 and 1."""
    towards: dict[str, torch.Tensor] = {}
    for component in components:
        group, index = masks.anatomy.locate(component)
        towards.setdefault(group.name, torch.zeros(group.count))[index] = 1.0
    return towards


def _started(half_way: Decision, before: np.ndarray, labels: np.ndarray) -> Decision:
    """The same choices where the change begins."""
    logits = torch.from_numpy(before).to(half_way.logits.dtype)
    if half_way.classes is None:
        return Decision(logits, half_way.labels)
    concentration = decide(logits, torch.from_numpy(labels)).rest
    return Decision(half_way.of(logits), half_way.labels, concentration, half_way.classes)


def _mean(totals: list[float], n: int) -> Joint:
    loss, kl, to_wrong, to_right = (total / max(1, n) for total in totals)
    return Joint(
        loss_change=loss,
        kl=kl,
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
        accuracy_change=to_right - to_wrong,
        n=n,
    )


def observed_joint(before: Pairs, after: Pairs) -> Joint:
    """What changed between two states of the compressed model on the same rows."""
    rows = np.arange(len(before))
    was, now = (log_softmax(pairs.compressed.astype(np.float64), axis=1) for pairs in (before, after))
    right_before, right_after = before.compressed_right, after.compressed_right
    to_wrong = float((right_before & ~right_after).mean())
    to_right = float((~right_before & right_after).mean())
    return Joint(
        loss_change=float((was - now)[rows, before.answers].mean()),
        kl=float((np.exp(was) * (was - now)).sum(1).mean()),
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
        accuracy_change=to_right - to_wrong,
        n=len(before),
    )
