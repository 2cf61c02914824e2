"""What a model decides on a split, kept as small as what is told of it allows.

Of a row, or a word, that is the logit of every class. Of a token it would be a whole vocabulary; kept
are the token that is right, those that the original finds likeliest besides, and the rest as one choice
whose logit is their log-sum-exp, with the token that is likeliest of all. The probability of what is
right is exact then, and so are loss and accuracy; a KL divergence is that of the coarser distribution
and so at most the true one. Of the bounds of an answer it is the logit of every token of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compress_explain.data.examples import Batch, Examples
from compress_explain.model.tasks import TASKS

CHOICES = 8  # that are kept of a vocabulary

Forward = Callable[[dict[str, Tensor]], np.ndarray]  # logits of a batch of inputs: (batch, *decisions, classes)


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The logits of every decision of a split, row by row.

    Of a vocabulary those of some ``choices`` and of the rest, and the likeliest of all (``guesses``). Of embeddings also their
    ``directions``, where they were just computed.
    """

    logits: Float[np.ndarray, "n classes"] = field(repr=False)
    choices: Int[np.ndarray, "n chosen"] | None = field(default=None, repr=False)
    guesses: Int[np.ndarray, " n"] | None = field(default=None, repr=False)
    directions: Float[np.ndarray, "n width"] | None = field(default=None, repr=False)


def decide_all(
    forward: Forward,
    examples: Examples,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
    choices: Int[np.ndarray, "n chosen"] | None = None,
) -> Decided:
    """What is decided on every row, in the order of the rows.

    ``choices`` are those of a model that this one is to be compared with; they are chosen when not given.
    """
    ends = np.cumsum(examples.decisions)
    logits: np.ndarray | None = None
    near = examples.neighbours
    directions = None if near is None else np.empty_like(near.original)
    guesses = np.zeros(ends[-1], dtype=np.int64)
    chosen = choices
    of_vocabulary = TASKS[examples.task].decides == "token" and examples.tokenwise
    for batch in examples.batches(batch_size):
        output = forward(batch.inputs)
        if near is not None and directions is not None:
            states = torch.from_numpy(output)
            directions[batch.rows] = near.directions(states, batch.inputs["attention_mask"]).numpy()
        for place, (right, found) in enumerate(_by_row(examples, batch, output)):
            end = ends[batch.rows[place]]
            here = slice(end - len(found), end)
            if of_vocabulary:
                if chosen is None:
                    chosen = np.zeros((ends[-1], min(CHOICES, found.shape[1]) - 1), dtype=np.int64)
                if choices is None:
                    chosen[here] = _likeliest(found, right, chosen.shape[1])
                guesses[here] = found.argmax(-1)
                found = gathered(found, torch.from_numpy(chosen[here]))
            if logits is None:
                logits = np.empty((ends[-1], found.shape[1]), dtype=np.float32)
            logits[here] = found
        advance(len(batch.rows))
    assert logits is not None, "a split is never empty"
    kept = guesses if of_vocabulary else None
    return Decided(logits=logits, choices=chosen, guesses=kept, directions=directions)


def right_answers(examples: Examples) -> Int[np.ndarray, " n"]:
    """The class that is right, for every decision."""
    if examples.tags is not None:
        return np.concatenate([ids[ids >= 0] for ids in examples.tags.ids])
    if examples.tokenwise:
        return np.concatenate([ids[1:] for ids in examples.inputs["input_ids"]])
    return examples.labels


def places(examples: Examples) -> Int[np.ndarray, " n"]:
    """Which word, token or bound of its row each decision is about, counted from 0."""
    if examples.tags is not None:
        return np.concatenate(examples.tags.places)
    return np.concatenate([np.arange(1, count + 1) for count in examples.decisions])


def gathered(logits: Float[Tensor, "*batch classes"], classes: Int[Tensor, "*rows chosen"]) -> Tensor:
    """The logits of some classes, and of all others together."""
    classes = classes.expand(*logits.shape[:-1], -1)
    others = logits.scatter(-1, classes, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, classes), others], -1)


def _by_row(examples: Examples, batch: Batch, output: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """For each row of a batch what is right and the logits, of each of its decisions."""
    logits = examples.decided_on(batch, torch.from_numpy(output))
    if not examples.tokenwise:
        labels = torch.from_numpy(examples.labels[batch.rows])
        return list(zip(labels.split(1), logits.split(1), strict=True))
    targets, valid = examples.targets(batch)
    return [(right[here], found[here]) for right, found, here in zip(targets, logits, valid, strict=True)]


def _likeliest(logits: Float[Tensor, "n classes"], right: Int[Tensor, " n"], count: int) -> np.ndarray:
    """What is right, and the likeliest other classes."""
    ranked = logits.scatter(-1, right[:, None], torch.inf)
    return ranked.topk(count, dim=-1).indices.numpy()
