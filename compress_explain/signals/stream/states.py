"""What a model holds at each of its decisions: the stream at every depth, and what it then answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.comparison.decided import right_answers
from compress_explain.data.examples import Batch, Examples
from compress_explain.errors import InputError
from compress_explain.model.heads import logits_in
from compress_explain.model.tasks import TASKS
from compress_explain.signals.stream.layers import Layers, passing

Where = Literal["first", "last", "mean", "each"]  # of a row's tokens: which one holds what the head reads
_PROBED = 4  # rows on which that is found out
_MANY = 1000  # classes: a vocabulary


@dataclass(frozen=True, kw_only=True)
class States:
    """The stream at ``n`` decisions and what follows from it.

    ``values`` hold the stream before the first layer and after each (``depths``). ``loss`` is that of the right answer in nats,
    ``entropy`` of the answer's distribution in nats; ``confidence`` is the margin between the two largest logits of a
    classifier, the largest probability where there are ``many`` classes, as in a vocabulary. ``guesses`` are the likeliest classes, ``wrong``
    whether they are, and ``rows`` which row each decision stands in.
    """

    depths: tuple[str, ...]
    many: bool
    values: Float[np.ndarray, "n depths width"] = field(repr=False)
    loss: Float[np.ndarray, " n"] = field(repr=False)
    confidence: Float[np.ndarray, " n"] = field(repr=False)
    entropy: Float[np.ndarray, " n"] = field(repr=False)
    guesses: Int[np.ndarray, " n"] = field(repr=False)
    wrong: Bool[np.ndarray, " n"] = field(repr=False)
    rows: Int[np.ndarray, " n"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, depth: str) -> Float[np.ndarray, "n width"]:
        """The stream at one depth."""
        return self.values[:, self.depths.index(depth)]

    def norms(self, depth: str) -> Float[np.ndarray, " n"]:
        """Lengths of the stream's vectors at one depth."""
        return np.linalg.norm(self.at(depth), axis=1)

    def only(self, decisions: Int[np.ndarray, " some"]) -> States:
        """Some of the decisions, in that order."""
        parts = {name: getattr(self, name)[decisions] for name in _OF_EACH}
        return States(
            depths=self.depths, many=self.many, values=self.values[decisions], rows=self.rows[decisions], **parts
        )

    def followed_by(self, other: States) -> States:
        """These decisions and then those of other rows, which count on."""
        after = int(self.rows.max()) + 1
        return States(
            depths=self.depths,
            many=self.many,
            values=np.concatenate([self.values, other.values]),
            rows=np.concatenate([self.rows, other.rows + after]),
            **{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _OF_EACH},
        )


_OF_EACH = {"loss": np.float64, "confidence": np.float64, "entropy": np.float64, "guesses": np.int64, "wrong": np.bool_}


def drawn_decisions(examples: Examples, most: int, seed: int) -> Bool[np.ndarray, " decisions"]:
    """At most ``most`` of all decisions of a split, drawn at random; in the order of the rows."""
    count = int(examples.decisions.sum())
    flags = np.zeros(count, dtype=bool)
    flags[np.random.default_rng(seed).permutation(count)[:most]] = True
    return flags


def where_read(model: PreTrainedModel, layers: Layers, examples: Examples) -> Where:
    """Which of a row's tokens the head reads, found out from the gradient of its answer.

    ``each`` where every token, or word, has a decision of its own.

    Raises:
        InputError: the task's decisions do not stand at tokens of their own.
    """
    decides = TASKS[examples.task].decides
    if decides in ("word", "token") and "decoder_input_ids" not in examples.inputs:
        return "each"
    if decides != "row":
        problem = "what decides it does not stand at one place of the stream"
        raise InputError("evaluators: signals", examples.task, problem, "leave signals out for this task")
    batch = examples.batch(np.argsort(examples.lengths, kind="stable")[:: max(1, len(examples) // _PROBED)][:_PROBED])
    with torch.enable_grad(), passing(model, layers) as seen:
        answer = logits_in(model(**batch.inputs))
        (slope,) = torch.autograd.grad(answer.square().sum(), seen[layers.depths[-1]])
    reads = slope.abs().sum(-1) > 0
    last = torch.zeros_like(reads)
    last[torch.arange(len(reads)), _lengths(batch, reads.shape[1]) - 1] = True
    if not reads[:, 1:].any():
        return "first"
    return "last" if bool((reads == last).all()) else "mean"


def read_states(
    model: PreTrainedModel,
    layers: Layers,
    examples: Examples,
    where: Where,
    *,
    batch_size: int = 32,
    chosen: Bool[np.ndarray, " decisions"] | None = None,
    order: tuple[int, ...] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> States:
    """One pass over ``examples``: the stream where decisions are made, and the decisions.

    Of every row no more than what is asked for is kept. ``chosen`` says which decisions; None takes all. ``order`` says
    which class of the model stands for each class of the examples, where that is another.
    """
    keep = np.ones(int(examples.decisions.sum()), dtype=bool) if chosen is None else chosen
    target = np.cumsum(keep) - 1  # where each decision that is kept goes
    ends = np.cumsum(examples.decisions)
    rows = np.repeat(np.arange(len(examples)), examples.decisions)[keep]
    right = right_answers(examples)[keep]
    values: np.ndarray | None = None
    many = False
    told: dict[str, np.ndarray] = {name: np.zeros(len(rows), dtype=kind) for name, kind in _OF_EACH.items()}
    for batch in examples.batches(batch_size):
        with torch.inference_mode(), passing(model, layers) as seen:
            logits = logits_in(model(**batch.inputs)).float()
            stream = torch.stack([at_decisions(seen[depth], batch, examples, where) for depth in layers.depths], 1)
            logits = logits if where != "each" else logits[_valid(batch, examples)]
        here = np.concatenate([np.arange(ends[row] - examples.decisions[row], ends[row]) for row in batch.rows])
        kept = torch.from_numpy(keep[here])
        places = target[here[keep[here]]]
        if values is None:
            values = np.empty((len(rows), *stream.shape[1:]), dtype=np.float32)
        values[places] = stream[kept].float().numpy()
        many = logits.shape[1] > _MANY
        answers = logits[kept] if order is None else logits[kept][:, list(order)]
        for name, each in _answered(answers.double(), torch.from_numpy(right[places]), many).items():
            told[name][places] = each
        advance(len(batch.rows))
    assert values is not None, "a split is never empty"
    return States(depths=layers.depths, many=many, values=values, rows=rows, **told)


def read_splits(
    model: PreTrainedModel,
    layers: Layers,
    splits: Sequence[Examples],
    where: Where,
    chosen: Sequence[np.ndarray],
    *,
    batch_size: int = 32,
    order: tuple[int, ...] | None = None,
) -> States:
    """:func:`read_states` of several splits, one after the other; ``chosen`` are the flags of each one's decisions."""
    read = [
        read_states(model, layers, split, where, batch_size=batch_size, chosen=flags, order=order)
        for split, flags in zip(splits, chosen, strict=True)
    ]
    return reduce(States.followed_by, read)


def _answered(logits: Float[Tensor, "n classes"], right: Int[Tensor, " n"], many: bool) -> dict[str, np.ndarray]:
    log_share = logits.log_softmax(-1)
    entropy = -(log_share.exp() * log_share).sum(-1)
    two = logits.topk(2, dim=-1).values
    confidence = log_share.max(-1).values.exp() if many else two[:, 0] - two[:, 1]
    return {
        "loss": -log_share.gather(1, right[:, None])[:, 0].numpy(),
        "confidence": confidence.numpy(),
        "entropy": entropy.numpy(),
        "guesses": logits.argmax(-1).numpy(),
        "wrong": (logits.argmax(-1) != right).numpy(),
    }


def at_decisions(
    stream: Float[Tensor, "batch tokens width"], batch: Batch, examples: Examples, where: Where
) -> Float[Tensor, "decisions width"]:
    """The stream at each decision of a batch, row by row; differentiable."""
    if where == "each":
        return stream[_valid(batch, examples)]
    if where == "first":
        return stream[:, 0]
    lengths = _lengths(batch, stream.shape[1])
    if where == "last":
        return stream[torch.arange(len(stream)), lengths - 1]
    mask = (torch.arange(stream.shape[1]) < lengths[:, None])[..., None].to(stream.dtype)
    return (stream * mask).sum(1) / lengths[:, None]


def _valid(batch: Batch, examples: Examples) -> Bool[Tensor, "batch tokens"]:
    return examples.targets(batch)[1]


def _lengths(batch: Batch, tokens: int) -> Int[Tensor, " batch"]:
    """Tokens of each row that are no padding, which follows them."""
    mask = batch.inputs.get("attention_mask")
    rows = len(batch.rows)
    return torch.full((rows,), tokens) if mask is None or mask.shape[1] != tokens else mask.sum(1)
