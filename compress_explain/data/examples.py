"""A split in memory: encoded inputs, labels, and the slices that each row or token belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from compress_explain.data.neighbours import Neighbours
from compress_explain.data.spans import Spans
from compress_explain.model.tasks import TEXT_CLASSIFICATION

ALL = "all"  # the slice that holds every row


@dataclass(frozen=True)
class Batch:
    """Model inputs of some rows of a split; ``rows`` says which."""

    inputs: dict[str, Tensor]
    rows: Int[np.ndarray, " batch"]


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The classes of words: ``names`` by number; ``ids`` holds for each row one number a token, -1 where none is decided.

    ``places`` holds for each row the words that are decided on, counted from 0. For models that make one
    text of another, the tokens of the latter stand in the place of words, and their numbers have no names. For
    models that find an answer in a text there are two places, its first token and its last, and the numbers are where those stand.
    """

    names: tuple[str, ...]
    ids: list[np.ndarray] = field(repr=False)
    places: list[np.ndarray] = field(repr=False)

    def of(self, rows: Int[np.ndarray, " chosen"]) -> Tags:
        """Those of some rows."""
        return Tags(names=self.names, ids=[self.ids[row] for row in rows], places=[self.places[row] for row in rows])


@dataclass(frozen=True, kw_only=True)
class Examples:
    """One split, encoded for one model.

    ``inputs`` maps a model argument to one array a row; rows of different length are padded with
    ``padding`` when batched. ``slices`` always holds :data:`ALL`. ``texts`` is what a person would
    recognise a row by. ``truncated`` counts rows that were longer than the ``max_length`` tokens that
    they are cut to; None where rows are not texts. ``left_out`` counts rows that are not here, since nothing was left to decide on.
    ``described`` holds words for slices whose names say little. ``features`` are what is known of each row besides, a word, a number, or whether something is so; of rows that are decided on as a whole.

    ``tokenwise`` examples have several decisions a row, or one among what differs from split to split, and ``labels`` are all 0. With ``tags`` those
    are about words, about the tokens that the decoder is to give, or, with ``spans``, about where an answer begins and ends, or, with
    ``neighbours``, about which text is the nearest. Without, they are those of a language model: position t of a row predicts the
    token at t + 1, so a row of L tokens predicts L - 1. Their ``token_slices`` hold, for each row, one
    flag a predicted token. ``text_bytes`` counts, for what is predicted of each row, its bytes in UTF-8.
    """

    name: str
    inputs: dict[str, list[np.ndarray]] = field(repr=False)
    labels: Int[np.ndarray, " rows"] = field(repr=False)
    slices: dict[str, Bool[np.ndarray, " rows"]] = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    digest: str
    padding: dict[str, int] = field(default_factory=dict, repr=False)
    truncated: int = 0
    max_length: int | None = None
    left_out: int = 0
    tokenwise: bool = False
    task: str = TEXT_CLASSIFICATION
    tags: Tags | None = field(default=None, repr=False)
    spans: Spans | None = field(default=None, repr=False)
    neighbours: Neighbours | None = field(default=None, repr=False)
    token_slices: dict[str, list[np.ndarray]] = field(default_factory=dict, repr=False)
    text_bytes: Int[np.ndarray, " rows"] | None = field(default=None, repr=False)
    features: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    described: dict[str, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, rows: int, seed: int) -> Examples:
        """That many rows drawn at random; all of them when there are no more."""
        if rows >= len(self):
            return self
        return self.only(np.sort(np.random.default_rng(seed).choice(len(self), rows, replace=False)))

    def only(self, chosen: Int[np.ndarray, " chosen"]) -> Examples:
        """Those rows alone, in that order."""
        return replace(
            self,
            inputs={name: [values[row] for row in chosen] for name, values in self.inputs.items()},
            labels=self.labels[chosen],
            slices={name: flags[chosen] for name, flags in self.slices.items()},
            texts=tuple(self.texts[row] for row in chosen) if self.texts else (),
            tags=None if self.tags is None else self.tags.of(chosen),
            spans=None if self.spans is None else self.spans.of(chosen),
            neighbours=None if self.neighbours is None else self.neighbours.of(chosen),
            token_slices={name: [flags[row] for row in chosen] for name, flags in self.token_slices.items()},
            text_bytes=None if self.text_bytes is None else self.text_bytes[chosen],
            features={name: values[chosen] for name, values in self.features.items()},
            digest=hashlib.sha256(f"{self.digest} {chosen.tolist()}".encode()).hexdigest(),
        )

    @cached_property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Tokens of each row; 1 where the inputs are not tokens and so all of one size."""
        if "input_ids" not in self.inputs:
            return np.ones(len(self), dtype=np.int64)
        return np.array([len(row) for row in self.inputs["input_ids"]])

    @property
    def tokens(self) -> int:
        """The 95th percentile of the row lengths: the size at which FLOPs are counted."""
        return int(np.percentile(self.lengths, 95))

    @cached_property
    def decisions(self) -> Int[np.ndarray, " rows"]:
        """How many decisions each row holds."""
        if self.tags is not None:
            return np.array([int((ids >= 0).sum()) for ids in self.tags.ids])
        if self.tokenwise:
            return np.array([len(row) - 1 for row in self.inputs["input_ids"]])
        return np.ones(len(self), dtype=np.int64)

    @property
    def slice_names(self) -> tuple[str, ...]:
        """Slices of rows, :data:`ALL` first, then slices of tokens."""
        return (*self.slices, *self.token_slices)

    @property
    def counts(self) -> dict[str, int]:
        """Members of each slice: rows, or decisions if ``tokenwise``."""
        rows = {name: int((flags * self.decisions).sum()) for name, flags in self.slices.items()}
        return rows | {name: int(sum(map(np.sum, flags))) for name, flags in self.token_slices.items()}

    def batches(self, size: int, rows: Int[np.ndarray, " chosen"] | None = None) -> Iterator[Batch]:
        """All rows, or the chosen ones, in batches of ``size``, rows of similar length together, the longest first.

        What takes most memory comes at once: it fits or it does not, and what follows fits in its place.
        """
        chosen = np.arange(len(self)) if rows is None else rows
        order = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])

    def batch(self, rows: Int[np.ndarray, " chosen"]) -> Batch:
        """Those rows, in that order."""
        return Batch({name: self._pad(name, values, rows) for name, values in self.inputs.items()}, rows)

    def slice_matrix(self, rows: Int[np.ndarray, " batch"]) -> Tensor:
        """Membership of ``rows`` in the slices, ``(slices, batch)``, as float."""
        return torch.from_numpy(np.stack([flags[rows] for flags in self.slices.values()]).astype(np.float32))

    def targets(self, batch: Batch) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """The class that is right at each position of a ``tokenwise`` batch, and whether one is decided on there.

        Of a language model that is the next token; the last position of a row predicts none, nor does
        padding. Where nothing is decided the class given is 0.
        """
        ids = batch.inputs.get("decoder_input_ids", batch.inputs["input_ids"])
        if self.tags is not None:
            apart = self.spans is not None or self.neighbours is not None  # from tokens
            shape = (len(ids), len(self.tags.ids[batch.rows[0]])) if apart else ids.shape
            right = torch.full(shape, -1, dtype=torch.int64)
            for place, row in enumerate(batch.rows):
                right[place, : len(self.tags.ids[row])] = torch.from_numpy(self.tags.ids[row])
            return right.clamp(min=0).to(ids.device), (right >= 0).to(ids.device)
        lengths = torch.tensor([len(self.inputs["input_ids"][row]) for row in batch.rows], device=ids.device)
        predicts = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None] - 1
        return torch.where(predicts, ids.roll(-1, dims=1), 0), predicts

    def decided_on(
        self, batch: Batch, logits: Float[Tensor, "batch *tokens classes"]
    ) -> Float[Tensor, "batch *decisions choices"]:
        """Of what the model gave for a batch, what is decided on.

        For an answer's bounds, the tokens where one can lie; for an embedding, the texts that it may be near to.
        """
        if self.neighbours is not None:
            return self.neighbours.decided(logits, batch.inputs["attention_mask"], batch.rows)
        return logits if self.spans is None else self.spans.limited(logits, batch.rows)

    def one_each(
        self, batch: Batch, logits: Float[Tensor, "batch *tokens classes"]
    ) -> tuple[Float[Tensor, "batch choices"], Int[Tensor, " batch"]]:
        """A decision of each row and the class that is right: the row's own, or one of several drawn at random.

        Drawn once and for all, so that what is learned of a row at different times is of the same decision.
        """
        if not self.tokenwise:
            return logits, torch.from_numpy(self.labels[batch.rows])
        logits, (targets, valid) = self.decided_on(batch, logits), self.targets(batch)
        wanted = torch.from_numpy(self._drawn[batch.rows])
        positions = (valid.cumsum(1) == wanted[:, None] + 1).long().argmax(1)
        rows = torch.arange(len(batch.rows))
        return logits[rows, positions], targets[rows, positions]

    @cached_property
    def _drawn(self) -> Int[np.ndarray, " rows"]:
        """Which of its decisions stands for each row."""
        return (np.random.default_rng(0).random(len(self)) * self.decisions).astype(np.int64)

    def token_membership(self, batch: Batch) -> Float[Tensor, "slices batch tokens"]:
        """Membership of each position of a ``tokenwise`` batch in the slices of :attr:`slice_names`.

        Of a slice of rows, all predicted tokens of the row are members.
        """
        _, predicts = self.targets(batch)
        members = torch.zeros(len(self.slice_names), *predicts.shape)
        for index, flags in enumerate(self.slices.values()):
            members[index] = torch.from_numpy(flags[batch.rows])[:, None] & predicts.cpu()
        for index, rows in enumerate(self.token_slices.values(), start=len(self.slices)):
            for place, row in enumerate(batch.rows):
                members[index, place, : len(rows[row])] = torch.from_numpy(rows[row])
        return members.to(predicts.device)

    def _pad(self, name: str, values: list[np.ndarray], rows: np.ndarray) -> Tensor:
        chosen = [values[row] for row in rows]
        if name not in self.padding:
            return torch.from_numpy(np.stack(chosen))
        width = max(len(row) for row in chosen)
        padded = np.full((len(chosen), width), self.padding[name], dtype=np.int64)
        for target, row in zip(padded, chosen, strict=True):
            target[: len(row)] = row
        return torch.from_numpy(padded)
