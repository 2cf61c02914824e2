"""Do both models look at the same pieces of an input, and are those what they use?

Asked of each is what speaks for the class that the original decides, so that the two answer one question also where the
compressed model decides otherwise. What the answers are worth is measured: the pieces that an attribution names are
taken out, and as many others at random (the deletion check of Samek 2017, over its first step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.errors import InputError
from compress_explain.model.tasks import TEXT_CLASSIFICATION
from compress_explain.progress import Advance
from compress_explain.signals.attribution.patch_pieces import Patches, patch_side
from compress_explain.signals.attribution.pieces import Pieces
from compress_explain.signals.attribution.ranked import largest, rank_correlation
from compress_explain.signals.attribution.saliency_told import LEAST_PIECES, METHODS, MODELS, PART, Seen, Told
from compress_explain.signals.attribution.token_pieces import Tokens, tokens_around
from compress_explain.signals.findings import Finding
from compress_explain.signals.stream.read_alike import rows_read_alike

_IMAGE_CLASSIFICATION = "image-classification"
_DRAWS = 4  # of pieces at random


def saliency(
    original: PreTrainedModel,
    compressed: PreTrainedModel,
    examples_original: Examples,
    examples_compressed: Examples,
    *,
    rows: int = 200,
    steps: int = 32,
    top: int = 5,
    batch_size: int = 16,
    order: tuple[int, ...] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    advance: Advance = lambda rows: None,
) -> list[Finding]:
    """Agreement of both models' attributions, and what a deletion check makes of each, as means over at most ``rows`` rows.

    Attributed is the logit of the class that the original decides, to token embeddings or to pixels, summed over each token or
    patch: integrated gradients in ``steps`` steps from a baseline of padding tokens or of mean pixels, and input times gradient.
    ``agreement`` is Spearman's correlation over the pieces of a row, ``overlap`` the share in common of the pieces that
    speak most for the class, ``top`` of them and at most half; ``overlap_by_chance`` is what pieces at random would have in common.
    ``deletion`` is how far the class's probability falls without those pieces, ``deletion.random`` without as many at random,
    ``deletion.gain`` the difference. ``completeness`` is how far the attributions' sums are off what they should sum up to, f(x) - f(baseline), as a share of that:
    mean absolute gap over mean absolute difference. ``order`` says which class of the compressed model stands for each of the original's.

    Only of what is classified as a whole: where every token is decided on, each decision would have an attribution of its own.
    """
    if not _whole_rows(examples_original):
        return []
    chosen = [each.draw(rows, seed) for each in (examples_original, examples_compressed)]
    alike = rows_read_alike(chosen[0], chosen[1])
    if not len(alike):
        return [_untold("the two models read no row as the same pieces")]
    try:
        pieces = pieces_of(original, chosen[0]), pieces_of(compressed, chosen[1], order)
    except InputError as error:
        return [_untold(str(error))]
    seen = Seen.nothing(len(chosen[0]))
    for batch in chosen[0].batches(batch_size, alike):
        _look(pieces, (batch, chosen[1].batch(batch.rows)), seen, _Asked(steps=steps, top=top, seed=seed))
        advance(len(batch.rows))
    advance(len(chosen[0]) - len(alike))
    return list(Told(seen=seen, slices=chosen[0].slices, alike=len(alike), confidence=confidence, seed=seed).findings())


def pieces_of(model: PreTrainedModel, examples: Examples, order: tuple[int, ...] | None = None) -> Pieces:
    """Tokens where the model reads text, else patches of its images.

    ``order`` says which of the model's classes stands for each of those that are asked about.

    Raises:
        InputError: the model does not look each token up once.
    """
    if "input_ids" not in examples.inputs:
        return Patches(model=model, side=patch_side(model, examples), order=order)
    tokens = Tokens(
        model=model, blank=examples.padding.get("input_ids", 0), around=tokens_around(examples), order=order
    )
    tokens.check(examples.batch(np.array([0])))
    return tokens


def _whole_rows(examples: Examples) -> bool:
    return examples.task in (TEXT_CLASSIFICATION, _IMAGE_CLASSIFICATION) and not examples.tokenwise


def _untold(why: str) -> Finding:
    return Finding(part=PART, figure=f"agreement.{METHODS[0]}", value=math.nan, unit="rank correlation", n=0, note=why)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    steps: int
    top: int
    seed: int


def _look(pieces: tuple[Pieces, Pieces], batches: tuple[Batch, Batch], seen: Seen, asked: _Asked) -> None:
    """Fill in what both models say of a batch."""
    said = [each.logits(batch) for each, batch in zip(pieces, batches, strict=True)]
    classes = said[0].argmax(-1)
    free = pieces[0].free(batches[0]).numpy()
    rows, counts = batches[0].rows, free.sum(1)
    top = np.maximum(1, np.minimum(asked.top, counts // 2))
    enough = counts >= LEAST_PIECES
    seen.flipped[rows] = (said[1].argmax(-1) != classes).numpy()
    seen.figures["overlap_by_chance"][rows] = np.where(enough, top / np.maximum(counts, 1), np.nan)
    found = [_attributed(each, batch, classes, asked.steps) for each, batch in zip(pieces, batches, strict=True)]
    for method in METHODS:
        pair = found[0][method], found[1][method]
        seen.figures[f"agreement.{method}"][rows] = _agreement(pair, free, enough)
        named = [largest(each, free, top) for each in pair]
        seen.figures[f"overlap.{method}"][rows] = np.where(enough, (named[0] & named[1]).sum(1) / top, np.nan)
    at_random = _at_random(free, top, rows, asked.seed)
    for index, name in enumerate(MODELS):
        ask = _Question(pieces=pieces[index], batch=batches[index], classes=classes, logits=said[index])
        scores = found[index][METHODS[0]]
        told = {
            "named": ask.drop(largest(scores, free, top)),
            "random": np.mean([ask.drop(each) for each in at_random], axis=0),
            "whole": ask.difference(free),
        }
        told["gap"] = np.abs(scores.sum(1) - told["whole"])
        told["whole"] = np.abs(told["whole"])
        for figure, values in told.items():
            seen.figures[f"{figure} {name}"][rows] = np.where(enough, values, np.nan)


def _attributed(
    pieces: Pieces, batch: Batch, classes: Int[Tensor, " batch"], steps: int
) -> dict[str, Float[np.ndarray, "batch pieces"]]:
    return {
        "integrated_gradients": pieces.integrated_gradients(batch, classes, steps).numpy(),
        "input_x_gradient": pieces.input_x_gradient(batch, classes).numpy(),
    }


def _agreement(
    pair: tuple[np.ndarray, np.ndarray], free: Bool[np.ndarray, "batch pieces"], enough: Bool[np.ndarray, " batch"]
) -> Float[np.ndarray, " batch"]:
    return np.array(
        [
            rank_correlation(one[flags], other[flags]) if told else np.nan
            for one, other, flags, told in zip(*pair, free, enough, strict=True)
        ]
    )


def _at_random(
    free: Bool[np.ndarray, "batch pieces"], top: Int[np.ndarray, " batch"], rows: Int[np.ndarray, " batch"], seed: int
) -> list[Bool[np.ndarray, "batch pieces"]]:
    """As many pieces of each row as are named, drawn several times; the same ones for both models and in any batch."""
    scores = np.stack([np.random.default_rng((seed, row)).random((free.shape[1], _DRAWS)) for row in rows])
    return [largest(scores[:, :, draw], free, top) for draw in range(_DRAWS)]


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What one model gives for the classes that are asked about, ``logits`` with all pieces there."""

    pieces: Pieces
    batch: Batch
    classes: Int[Tensor, " batch"]
    logits: Float[Tensor, "batch classes"]

    def drop(self, without: Bool[np.ndarray, "batch pieces"]) -> Float[np.ndarray, " batch"]:
        """How far the probability falls without some pieces."""
        left = self.pieces.logits(self.batch, torch.from_numpy(without))
        return self._of_class(self.logits.softmax(-1) - left.softmax(-1))

    def difference(self, free: Bool[np.ndarray, "batch pieces"]) -> Float[np.ndarray, " batch"]:
        """The logit less that of the baseline."""
        return self._of_class(self.logits - self.pieces.logits(self.batch, torch.from_numpy(free)))

    def _of_class(self, values: Float[Tensor, "batch classes"]) -> Float[np.ndarray, " batch"]:
        return values.gather(1, self.classes[:, None])[:, 0].double().numpy()
