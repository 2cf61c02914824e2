"""The effect of a whole plan: what its linearisation expects, and what was then observed.

Logit changes of all edits are added per example and only then turned into loss, KL and flips: a
sum of single impacts would count every curvature many times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_softmax

from compress_explain.examples import Examples
from compress_explain.masks import Masks
from compress_explain.predictions import Pairs
from compress_explain.price import impact_of, linearised


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Mean change per example over one split: loss and KL in nats, flips and accuracy as shares."""

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
    batch_size: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> dict[str, Joint]:
    """Expected effect, per slice, of switching ``components`` together, from one pass over ``examples``."""
    located = [masks.anatomy.locate(component) for component in components]
    groups = list({group.name: group for group, _ in located}.values())
    chosen = {group.name: torch.zeros(group.count) for group in groups}
    for group, index in located:
        chosen[group.name][index] = 1.0
    totals = torch.zeros(len(examples.slices), len(_SUMMED), dtype=torch.float64)
    for batch, logits, moves in linearised(masks, examples, groups, batch_size):
        move = torch.zeros_like(logits)
        for group, each in zip(groups, moves, strict=True):
            move += torch.einsum("bck,c->bk", each, chosen[group.name])
        impact = impact_of(logits, move[:, None], torch.from_numpy(examples.labels[batch.rows]))
        values = torch.cat([impact[name] for name in _SUMMED], dim=1)  # (batch, impacts)
        totals += (examples.slice_matrix(batch.rows) @ values).double()
        advance(len(batch.rows))
    return {
        name: _mean(row, int(flags.sum()))
        for row, (name, flags) in zip(totals.tolist(), examples.slices.items(), strict=True)
    }


_SUMMED = ("loss_change", "kl", "flips_to_wrong", "flips_to_right")


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
        loss_change=float((was - now)[rows, before.labels].mean()),
        kl=float((np.exp(was) * (was - now)).sum(1).mean()),
        flips_to_wrong=to_wrong,
        flips_to_right=to_right,
        accuracy_change=to_right - to_wrong,
        n=len(before),
    )
