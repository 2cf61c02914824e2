"""Activation patching, both ways: how much of the decision comes back, or breaks, when one activation is exchanged?

What passes a place of one model is put into the other at the same place, and that model runs on from there (Vig et al. 2020,
"Investigating gender bias in language models using causal mediation analysis"; Meng et al. 2022, arXiv:2202.05262). Here the two
models are the original and what was made of it, and the row stays the same: what changes is only which model computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.data.spans import ELSEWHERE
from compress_explain.errors import InputError
from compress_explain.progress import Advance
from compress_explain.signals.findings import Finding
from compress_explain.signals.interventions.patching_told import Moved
from compress_explain.signals.stream.decisions import decision_logits, decision_numbers
from compress_explain.signals.stream.layers import Layers
from compress_explain.signals.stream.places import LAYER, Pass, Place, places_of
from compress_explain.signals.stream.read_alike import rows_read_alike

_ROUNDING = 1e-5  # what single precision leaves of a logit's size, at most


def patch(
    original: PreTrainedModel,
    compressed: PreTrainedModel,
    examples_original: Examples,
    examples_compressed: Examples,
    layers_original: Layers,
    layers_compressed: Layers,
    *,
    order: tuple[int, ...] | None = None,
    rows: int = 128,
    batch_size: int = 32,
    confidence: float = 0.95,
    seed: int = 0,
    advance: Advance = lambda rows: None,
) -> list[Finding]:
    """What is ``recovered`` and what is ``broken`` at every place that both models have, on at most ``rows`` rows.

    With the logits of a decision, centred over the classes that it can fall on, o of the original, c of the compressed model and
    p of the one that is patched, the first figure is sum <p - c, o - c> / sum |o - c|^2 with the original's activation put into the compressed
    model, the second sum <p - o, c - o> / sum |o - c|^2 with the compressed model's put into the original. Each is the slope of a
    least-squares line: 1 where p is what the activation came from, 0 where nothing moved; below 0, or above 1, where it moved
    away, or further. Decisions on which both models' logits are equal, but for rounding, have no weight.

    ``layer`` is where, ``other`` the site: ``layer`` is the stream after it (before the first one, at ``embedding``), ``attention`` and
    ``feed_forward`` what that sublayer adds. Told on all rows, on slices of which at least 30 are there, and on the decisions
    that are ``flipped``. Intervals are of rows that are drawn. ``layers_compressed`` are named as in the original; ``order``
    says which class of the compressed model stands for each of the original's. Rows that the models read as other tokens are left
    out; where nothing can be exchanged, one finding without a value says why.

    A row takes 2 passes and, of L layers that both have, L + 1.5 L (L - 1) + 0.7 L layers each way: at 6 layers 20 passes in all. Where
    the same passes in both, as before the first edit, nothing is run.
    """
    mine, theirs = examples_original.draw(rows, seed), examples_compressed.draw(rows, seed)
    alike = rows_read_alike(mine, theirs)
    alike = alike[mine.decisions[alike] == theirs.decisions[alike]]
    if not len(alike):
        return [_untold("the two models read no row as the same tokens")]
    sides = (
        _Patched(model=original, layers=layers_original, examples=mine),
        _Patched(model=compressed, layers=layers_compressed, examples=theirs, order=order),
    )
    places = [key for key in sides[0].places if key in sides[1].places]
    moved = Moved.nothing(mine, places, left_out=len(mine) - len(alike))
    for batch in mine.batches(batch_size, alike):
        try:
            _exchange(sides, (batch, theirs.batch(batch.rows)), moved)
        except InputError as error:
            return [_untold(str(error))]
        advance(len(batch.rows))
    advance(len(mine) - len(alike))
    return list(moved.findings(confidence, seed))


def _untold(why: str) -> Finding:
    return Finding(part="patching", figure="recovered", value=math.nan, unit="share", n=0, other=LAYER, note=why)


@dataclass(frozen=True, kw_only=True)
class _Patched:
    """One of the two models, and its places by layer and site."""

    model: PreTrainedModel = field(repr=False)
    layers: Layers
    examples: Examples = field(repr=False)
    order: tuple[int, ...] | None = None
    places: dict[tuple[str, str], Place] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", places_of(self.model, self.layers))

    def run(self, batch: Batch) -> Pass:
        return Pass(self.model, self.layers, batch.inputs)

    def answers(self, batch: Batch, logits: Tensor) -> Float[Tensor, "n classes"]:
        """The logits of the decisions, classes in the original's order."""
        found = decision_logits(self.examples, batch, logits)
        return found if self.order is None else found[:, list(self.order)]


@torch.inference_mode()
def _exchange(sides: tuple[_Patched, _Patched], batches: tuple[Batch, Batch], moved: Moved) -> None:
    """Fill in what one batch tells."""
    here = decision_numbers(sides[0].examples, batches[0])
    runs = [side.run(batch) for side, batch in zip(sides, batches, strict=True)]
    own = [side.answers(batch, run.logits) for side, batch, run in zip(sides, batches, runs, strict=True)]
    if own[0].shape != own[1].shape:
        problem = f"decides between another number of classes than the original, which has {own[0].shape[1]}"
        raise InputError("compressed model", own[1].shape[1], problem, "leave patching out")
    gap = _gap(*own)
    moved.whole[here] = _products(own[0] - own[1], gap)
    moved.flipped[here] = (own[0].argmax(-1) != own[1].argmax(-1)).numpy()
    for number, key in enumerate(moved.places):
        values = [run.at(side.places[key]) for side, run in zip(sides, runs, strict=True)]
        if values[0].shape != values[1].shape:
            continue
        moved.along[:, number, here] = 0
        if torch.equal(*values):
            continue  # nothing is exchanged
        for into, sign in ((1, 1), (0, -1)):  # the compressed model is led to the original, the original away
            logits = runs[into].with_at(sides[into].places[key], values[1 - into])
            change = sides[into].answers(batches[into], logits) - own[into]
            moved.along[1 - into, number, here] = sign * _products(change, gap)


def _gap(one: Float[Tensor, "n classes"], other: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
    """What lies between both models' logits, centred: the mean of whatever it is multiplied with does not matter then.

    Only classes that a decision can fall on count, as an answer cannot lie everywhere; 0 where no more than rounding lies between.
    """
    possible = one != ELSEWHERE
    apart = (one - other) * possible
    centred = (apart - apart.sum(-1, keepdim=True) / possible.sum(-1, keepdim=True).clamp(min=1)) * possible
    size = (one * possible).abs().amax(-1, keepdim=True)
    return torch.where(centred.abs().amax(-1, keepdim=True) > _ROUNDING * size, centred, 0.0)


def _products(one: Float[Tensor, "n classes"], other: Float[Tensor, "n classes"]) -> Float[np.ndarray, " n"]:
    return (one * other).sum(-1, dtype=torch.float64).numpy()
