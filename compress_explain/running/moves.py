"""How putting back each part that is gone would move the logits of every example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compress_explain.data.examples import Batch, Examples
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import Group
from compress_explain.model.heads import logits_in
from compress_explain.pricing.decision import Decision
from compress_explain.pricing.exact import logits_tried, masked
from compress_explain.pricing.linear import linearised
from compress_explain.pricing.slopes import Slopes, wide
from compress_explain.running.channels_back import Block, logits_with
from compress_explain.weight_edits import LowRank, Unedited

_MEMORY = 2**30  # bytes of logit moves held at once; beyond it examples are thinned evenly


@dataclass(frozen=True)
class Moves:
    """How restoring each removed component, quantized or factored linear would move the logits of each example's choices.

    ``flops`` is what that costs, in FLOPs of float32.
    """

    components: list[str]
    flops: Float[Tensor, " components"]
    rows: Int[np.ndarray, " rows"]
    labels: Int[Tensor, " rows"]
    logits: Float[Tensor, "rows choices"]
    moves: Float[Tensor, "choices rows components"]


def collect(
    masks: Masks,
    examples: Examples,
    batch_size: int,
    work: Mapping[str, int],
    blocks: Sequence[Block],
    advance: Callable[[int], None],
) -> Moves:
    reachable = [group for group in masks.anatomy.groups.values() if not masks.gone(group.name)]
    groups = [group for group in reachable if masks.off[group.name].any()]
    every = [name for name in dict.fromkeys([*masks.quantized, *masks.factors]) if not masks.gone(name)]
    shared = [name for name in every if masks.anatomy.linears[name].shared]
    linears = [name for name in every if name not in shared]
    units = [unit.name for unit in masks.units if not any(masks.gone(each) for each in _around(unit.name))]
    undone = torch.cat(
        [*[masks.off[group.name] for group in groups], torch.ones(len(every) + len(units) + len(blocks)).bool()]
    )
    names = [
        *[component for group in groups for component in group.components],
        *linears,
        *units,
        *shared,
        *(each.name for each in blocks),
    ]
    costs = [
        masks.anatomy.costs(group.name, masks.ranks, masks.removed)[1] * _speed(masks, group, work)
        for group in groups
        for _ in range(group.count)
    ]
    costs += [work[name] if name in masks.quantized else thinner(masks, name)[1] for name in linears]
    costs += [_unit_cost(masks, unit, work) for unit in units]
    costs += [work[name] for name in shared]
    costs += [block.flops(masks) for block in blocks]
    slopes = Slopes(masks, groups, {name: (Unedited(),) for name in linears})
    rows, labels, logits, moves = [], [], [], []
    for batch in examples.batches(batch_size):
        whole = _tried_moves(masks, examples, batch, units, shared, blocks)
        (each,) = linearised(slopes, examples, [batch])
        stride = max(1, math.ceil(len(examples) * int(undone.sum()) * each.decision.logits.shape[1] * 4 / _MEMORY))
        keep = torch.from_numpy(batch.rows % stride == 0)
        found = [*each.moves(), whole(each.decision)]
        move = torch.cat([columns[keep] for columns in found], dim=1)[:, undone]
        rows.append(batch.rows[keep.numpy()])
        labels.append(each.decision.labels[keep])
        logits.append(each.decision.logits[keep])
        moves.append(move.permute(2, 0, 1).contiguous())
        advance(len(batch.rows))
    return Moves(
        components=[name for name, flag in zip(names, undone.tolist(), strict=True) if flag],
        flops=torch.tensor(costs, dtype=torch.float32)[undone],
        rows=np.concatenate(rows),
        labels=torch.cat(labels),
        logits=torch.cat(logits),
        moves=torch.cat(moves, dim=1),
    )


def _around(unit: str) -> tuple[str, ...]:
    """The layer that a sublayer stands in."""
    layer = ".".join(unit.split(".")[:3])
    return () if layer == unit else (layer,)


def _tried_moves(
    masks: Masks,
    examples: Examples,
    batch: Batch,
    units: Sequence[str],
    linears: Sequence[str],
    blocks: Sequence[Block],
) -> Callable[[Decision], Float[Tensor, "batch tried choices"]]:
    """How putting each sublayer, layer, shared linear or block back moves the choices of a batch: no slope tells, it is tried."""
    if not units and not linears and not blocks:
        return lambda decision: decision.logits[:, None][:, :0]
    with torch.inference_mode(), masked(masks):
        now, _ = examples.one_each(batch, wide(logits_in(masks.model(**batch.inputs))))
    wholes = logits_tried(masks, batch, units, dict.fromkeys(linears, Unedited()))
    tried = [examples.one_each(batch, logits)[0] for logits in (*wholes, *logits_with(masks, batch, blocks))]
    return lambda decision: torch.stack([decision.of(logits) - decision.of(now) for logits in tried], 1)


def thinner(masks: Masks, linear: str) -> tuple[int, int]:
    """Parameters and FLOPs that come back when one linear stands again where two do; one weight where it is as large."""
    weights = max(1, masks.anatomy.weights_saved(linear, masks.removed, masks.factors[linear].rank))
    return weights, 2 * masks.anatomy.linears[linear].tokens * weights


def into(masks: Masks, component: str) -> str:
    """What a linear is quantized into, or factored to; nothing of what else comes back."""
    if component in masks.quantized:
        return masks.quantized[component]
    return LowRank(rank=masks.factors[component].rank).name if component in masks.factors else ""


def _unit_cost(masks: Masks, unit: str, work: Mapping[str, int]) -> float:
    """The FLOPs of float32 that take as long as what comes back with a sublayer or layer."""
    now, then = masks.removed, masks.removed_without(unit)
    back = {name: int(now[name].sum() - then[name].sum()) for name in masks.anatomy.groups}
    return sum(
        count
        * masks.anatomy.costs(name, masks.ranks, masks.removed)[1]
        * _speed(masks, masks.anatomy.groups[name], work)
        for name, count in back.items()
    )


def _speed(masks: Masks, group: Group, work: Mapping[str, int]) -> float:
    """How long a component's FLOPs take, as a share of what they take in float32."""
    linears = masks.anatomy.sublayers[group.name.rpartition(".")[0]].linears
    whole = sum(masks.anatomy.linears[name].flops for name in linears)
    return 1 - sum(work[name] for name in linears if name in masks.quantized) / whole
