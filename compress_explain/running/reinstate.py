"""Undoing the edits that a failing gate needs back: as few as possible, all gates in view.

A removed component still has a gradient at its mask, so one pass over the calibration split says
how restoring each one would move every example's logits. Components are then picked greedily for
what they do to the gate with the least slack, re-weighing after each pick, so that help for one
slice that is paid for by another stops being picked as soon as the other becomes the tightest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compress_explain.choosing.ranking import ordinal
from compress_explain.comparison.gates import Verdict
from compress_explain.data.examples import Examples
from compress_explain.editing.edits import Edit
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.embedding import TOKEN, TOKENS
from compress_explain.model.stream import CHANNELS
from compress_explain.record.replay import Applied
from compress_explain.running.channels_back import Block
from compress_explain.running.moves import Moves, collect, into, thinner


@dataclass(frozen=True, kw_only=True)
class Reinstatement:
    """How far undoing may go.

    At most ``max_rounds`` rounds, each bringing back at most ``step`` of the removed FLOPs (or one
    component that is larger), and ``max_share`` of them in all. ``trims`` evaluations at most are spent on finding out which
    restorations were not needed. ``reserve`` is the slack, in half-widths of a score's interval,
    with which the gates are to hold on validation once restoring has begun: the test split is
    another sample, and a bare pass on one is an even chance on the other.
    """

    max_rounds: int = 6
    max_share: float = 0.5
    step: float = 0.02
    trims: int = 4
    reserve: float = 0.25

    def __post_init__(self) -> None:
        for name, value, fits in (
            ("max_rounds", self.max_rounds, 0 <= self.max_rounds <= 100),
            ("max_share", self.max_share, 0 < self.max_share <= 1),
            ("step", self.step, 0 < self.step <= 1),
            ("trims", self.trims, 0 <= self.trims <= 20),
            ("reserve", self.reserve, 0 <= self.reserve <= 10),
        ):
            if not fits:
                raise InputError(f"reinstatement.{name}", value, "out of range", "see the class Reinstatement")


def can_be_helped(verdict: Verdict, reserve: float) -> bool:
    """Whether a verdict wants more than it has and restoring components could give it.

    An inconclusive gate whose interval would be too wide even around the original's own value
    needs examples, not components.
    """
    if not math.isfinite(verdict.estimate) or (verdict.state != "pass" and verdict.counts_as == "pass"):
        return False
    if verdict.state == "pass":
        return verdict.slack < reserve * noise(verdict) and _reachable(verdict, reserve)
    return verdict.state == "fail" or _reachable(verdict, 0.0)


def _reachable(verdict: Verdict, reserve: float) -> bool:
    """Whether the slack would suffice if the compressed model were as good as the original."""
    width = 0.0 if verdict.gate.rule == "point" else noise(verdict)
    room = abs(verdict.gate.limit) if verdict.gate.relative else math.inf
    return room >= width + reserve * noise(verdict)


def choose_restorations(
    masks: Masks,
    examples: Examples,
    verdicts: Sequence[Verdict],
    *,
    flops: float,
    most: float,
    reserve: float,
    batch_size: int,
    work: Mapping[str, int] = MappingProxyType({}),
    blocks: Sequence[Block] = (),
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[Edit, ...]:
    """The restorations that lift the tightest gates most, worth at most ``flops``, most guilty first.

    Removed components, quantized and factored linears are weighed against one another by the FLOPs that take
    as long in float32: ``work`` is what each quantized linear saves of them, and what a component
    costs is less by the share that its sublayer's linears save.

    When the one that lifts them most is larger than that by itself, it alone is returned if it is
    worth at most ``most``.

    ``verdicts`` were given on validation; ``examples`` is the calibration split, which prices.
    ``blocks`` are the channels that may come back, each block alone tried on them.
    Choosing on the rows that judge would make them kind judges: on MiniLM/SST-2 by two points of
    a slice's accuracy. The gates are aimed at ``reserve`` half-widths of slack. Empty when nothing
    that is removed would help.
    """
    aimed = [each for each in verdicts if math.isfinite(each.slack) and each.slice in examples.slices]
    removed = not all(part.startswith((TOKENS, CHANNELS)) for part in masks.components)
    if not aimed or not (removed or masks.quantized or masks.factors or blocks):
        return ()
    moves = collect(masks, examples, batch_size, work, blocks, advance)
    aims = _Aims(examples, aimed, moves.rows, moves.labels)
    picked = _pick(moves, aims, flops, most, reserve)
    of_block = {block.name: block for block in blocks}
    return tuple(
        edit
        for place, index in enumerate(picked, start=1)
        for edit in _edits(masks, moves, aims, index, place, of_block.get(moves.components[index]))
    )


def tokens_back(plans: Iterable[Applied], masks: Masks) -> tuple[Edit, ...]:
    """Every token that is gone, put back: the last to be planned, the likeliest to be met, first.

    Calibration cannot say which of them a gate needs; which can be done without is tried afterwards.
    """
    planned = [edit for applied in plans for edit in applied.plan.edits if edit.kind == TOKEN]
    gone = {edit.component: edit for edit in planned if edit.action == "remove" and masks.is_removed(edit.component)}
    return tuple(
        replace(
            edit,
            action="restore",
            reason="nothing else that was removed would help the gates, so tokens come back, the likeliest to be met first",
            expected_loss_change=-edit.expected_loss_change,
            parameters_saved=-edit.parameters_saved,
            flops_saved=0,
        )
        for edit in reversed(gone.values())
    )


class _Aims:
    """Every verdict as a smooth function of the logits: predicted slack in units of its own noise.

    Accuracy, F1 and flips follow the probability of the label, whose mean moves as they do; NLL,
    perplexity and Brier follow themselves. What is predicted is the change since the gate was judged.
    """

    def __init__(
        self,
        examples: Examples,
        verdicts: Sequence[Verdict],
        rows: Int[np.ndarray, " rows"],
        labels: Int[Tensor, " rows"],
    ) -> None:
        self.verdicts = list(verdicts)
        self.labels = labels
        members = np.stack([examples.slices[verdict.slice][rows] for verdict in verdicts]).astype(np.float32)
        members *= examples.decisions[rows]  # of which one was drawn
        self.members = torch.from_numpy(members / np.maximum(members.sum(1, keepdims=True), 1))
        self.slack = torch.tensor([verdict.slack for verdict in verdicts])
        self.noise = torch.tensor([noise(verdict) for verdict in verdicts])
        self.kinds = [_surrogate(verdict) for verdict in verdicts]
        self.signs = torch.tensor([_sign(verdict) for verdict in verdicts])
        self.start: Tensor | None = None

    def slacks(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, " verdicts"]:
        """Predicted slack of every gate, in its own units."""
        now = self._surrogates(logits)
        if self.start is None:
            self.start = now.detach()
        return self.slack + self.signs * (now - self.start)

    def tightness(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, ""]:
        """A smooth minimum of the slacks, each measured in its own noise."""
        return -torch.logsumexp(-2 * self.slacks(logits) / self.noise, 0) / 2

    def _surrogates(self, logits: Tensor) -> Float[Tensor, " verdicts"]:
        log_probability = logits.log_softmax(-1)
        own = log_probability.gather(1, self.labels[:, None])[:, 0]
        probability = log_probability.exp()
        target = torch.nn.functional.one_hot(self.labels, logits.shape[1])
        values = {"right": own.exp(), "loss": -own, "brier": (probability - target).square().sum(1)}
        means = [
            members @ values[_MEAN_OF.get(kind, kind)] for members, kind in zip(self.members, self.kinds, strict=True)
        ]
        return torch.stack(
            [mean.exp() if kind == "perplexity" else mean for mean, kind in zip(means, self.kinds, strict=True)]
        )


_MEAN_OF = {"perplexity": "loss"}  # it is the exponential of its mean
_SURROGATE = {
    "accuracy": "right",
    "macro_f1": "right",
    "negative_flips": "right",
    "positive_flips": "right",
    "entity_f1": "right",
    "exact_match": "right",
    "token_f1": "right",
    "agreement": "right",
    "cosine": "right",
    "overlap": "right",
    "spearman": "right",
    "nll": "loss",
    "perplexity": "perplexity",
    "bits_per_byte": "loss",
    "brier": "brier",
}


def _surrogate(verdict: Verdict) -> str:
    """What stands for a metric; an unknown one follows the label's probability when it must not fall, else the loss."""
    return _SURROGATE.get(verdict.gate.metric, "right" if verdict.gate.bounded_below else "loss")


def _sign(verdict: Verdict) -> float:
    """+1 when a rise of the surrogate gives the gate more room."""
    sign = 1.0 if verdict.gate.bounded_below else -1.0
    if verdict.gate.max_change is not None and _surrogate(verdict) == "right":
        sign = 1.0 if verdict.estimate < 0 else -1.0
    return -sign if verdict.gate.metric == "negative_flips" else sign


def noise(verdict: Verdict) -> float:
    """The half-width of the judged interval, never zero."""
    return max((verdict.high - verdict.low) / 2, 1e-3)


def _pick(moves: Moves, aims: _Aims, flops: float, most: float, reserve: float) -> list[int]:
    """Greedy choice by gain of tightness per FLOP, a few at a time, until the gates should hold.

    What no longer fits into ``flops`` is passed over; a first choice that never fits is taken alone.
    """
    logits = moves.logits.clone()
    available = torch.ones(len(moves.components), dtype=torch.bool)
    picked: list[int] = []
    spent = 0.0
    bite = max(1, len(moves.components) // 300)
    while available.any():
        if picked and bool((aims.slacks(logits) > reserve * aims.noise).all()):
            break
        slope = _slope(aims, logits)
        gain = sum(slope[:, k] @ moves.moves[k] for k in range(slope.shape[1])) / moves.flops
        room = flops - spent if picked else most
        gain[~available | (moves.flops > room)] = -torch.inf  # type: ignore[index,operator]
        best = torch.topk(gain, min(bite, int(available.sum()))).indices.tolist()  # type: ignore[arg-type]
        best = [index for index in best if gain[index] > 0]  # type: ignore[index]
        if not best:
            break
        best = _affordable(best, moves.flops, flops - spent) or best[:1]
        picked += best
        spent += float(moves.flops[best].sum())
        available[best] = False
        logits = logits + moves.moves[:, :, best].sum(2).T
    return picked


def _slope(aims: _Aims, logits: Tensor) -> Float[Tensor, "rows classes"]:
    with torch.enable_grad():
        point = logits.detach().requires_grad_()
        (slope,) = torch.autograd.grad(aims.tightness(point), point)
    return slope


def _affordable(order: list[int], flops: Tensor, left: float) -> list[int]:
    chosen = []
    for index in order:
        if flops[index] <= left:
            chosen.append(index)
            left -= float(flops[index])
    return chosen


def _edits(masks: Masks, moves: Moves, aims: _Aims, index: int, place: int, block: Block | None) -> Iterator[Edit]:
    """A restoration, with the gate that it helps most as its reason; of a block those of its channels."""
    before = aims.slacks(moves.logits)
    moved = moves.logits + moves.moves[:, :, index].T
    help_each = (aims.slacks(moved) - before) / aims.noise
    tight = torch.softmax(-2 * before / aims.noise, 0)
    most = aims.verdicts[int(torch.argmax(tight * help_each))]
    loss = torch.nn.functional.cross_entropy(moved, aims.labels) - torch.nn.functional.cross_entropy(
        moves.logits, aims.labels
    )
    gain = float(help_each[aims.verdicts.index(most)] * aims.noise[aims.verdicts.index(most)])
    helped = f"expected {gain:+.2g} slack for {most.gate.metric} on {most.slice}, which had {most.slack:+.3g}"
    if block is not None:
        reason = f"{ordinal(place)} most useful for the time that it takes, {len(block.removals)} channels together; {helped}"
        yield from block.restored(masks, reason, float(loss))
        return
    component = moves.components[index]
    kind, parameters, flops = _brought_back(masks, component)
    yield Edit(
        component=component,
        kind=kind,
        action="restore",
        reason=f"{ordinal(place)} most useful for the time that it takes; {helped}",
        expected_loss_change=float(loss),
        parameters_saved=-parameters,
        flops_saved=-flops,
        into=into(masks, component),
        work_saved=-round(float(moves.flops[index])),
    )


def _brought_back(masks: Masks, component: str) -> tuple[str, int, int]:
    """The kind of a component, and the parameters and FLOPs that come back with it."""
    anatomy = masks.anatomy
    if component in anatomy.linears:
        return "linear", *((0, 0) if component in masks.quantized else thinner(masks, component))
    if component not in anatomy.units:
        group, _ = anatomy.locate(component)
        return group.kind, *anatomy.costs(group.name, masks.ranks, masks.removed)
    now, then = masks.saved, anatomy.saved(masks.removed_without(component), masks.ranks)
    return anatomy.units[component].kind, now[0] - then[0], now[1] - then[1]
