"""Paired predictions: both models' outputs on the same rows. The source of truth for every score."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedModel

from compress_explain.comparison.decided import Decided, Forward, decide_all, places, right_answers
from compress_explain.comparison.paired_embeddings import PairedEmbeddings
from compress_explain.comparison.paired_spans import PairedSpans
from compress_explain.data.examples import Examples
from compress_explain.model.heads import logits_in
from compress_explain.model.tasks import TEXT_CLASSIFICATION

_SLICE = "slice:"  # prefix of the membership columns in the Parquet file
_FEATURE = "feature:"  # of what is known of rows besides


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Both models' logits of every decision on one split, with what is right and the slices that it belongs to.

    A classifier decides once a row. Where words or tokens are decided on, ``rows`` says which row
    each decision stands in, rows in order, and ``places`` which word or token of it. With many
    classes (``vocabulary``) the logits are those of the choices that are kept; ``names`` are those of few.
    Where the decisions are the bounds of an answer, ``spans`` says how good the answers are; where they are which text is
    nearest, ``embeddings`` how alike both models embed each. ``clusters`` are what is independent, where that is not rows.
    ``features`` are what is known of each row besides, where a row is one decision: words, numbers, flags; never a text.
    ``described`` holds words for slices whose names say little. Of tokens, ``text_bytes`` counts at the first decision of each row the bytes of
    all that is predicted of it, and is 0 at the others.
    """

    split: str
    digest: str
    labels: Int[np.ndarray, " n"] = field(repr=False)
    original: Float[np.ndarray, "n classes"] = field(repr=False)
    compressed: Float[np.ndarray, "n classes"] = field(repr=False)
    slices: dict[str, Bool[np.ndarray, " n"]] = field(repr=False)
    task: str = TEXT_CLASSIFICATION
    rows: Int[np.ndarray, " n"] | None = field(default=None, repr=False)
    places: Int[np.ndarray, " n"] | None = field(default=None, repr=False)
    names: tuple[str, ...] = field(default=(), repr=False)
    vocabulary: PairedVocabulary | None = field(default=None, repr=False)
    spans: PairedSpans | None = field(default=None, repr=False)
    embeddings: PairedEmbeddings | None = field(default=None, repr=False)
    clusters: Int[np.ndarray, " n"] | None = field(default=None, repr=False)
    features: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    described: dict[str, str] = field(default_factory=dict, repr=False)
    text_bytes: Int[np.ndarray, " n"] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """How many decisions there are."""
        return len(self.labels)

    @property
    def independent(self) -> int:
        """How many rows the decisions stand in; how many pairs, of texts in pairs."""
        return len(self) if self.owners is None else len(np.unique(self.owners))

    @property
    def owners(self) -> Int[np.ndarray, " n"] | None:
        """What each decision belongs to that is independent of others: its cluster, or its row."""
        return self.rows if self.clusters is None else self.clusters

    def only(self, slice_name: str) -> Pairs:
        """The pairs of one slice."""
        return self._chosen(self.slices[slice_name])

    def of_rows(self, rows: Int[np.ndarray, " chosen"]) -> Pairs:
        """The pairs that stand in some rows, in no slice."""
        return self._chosen(np.isin(np.arange(len(self)) if self.rows is None else self.rows, rows))

    def beside(self, other: Decided) -> Pairs:
        """The same decisions of the original, beside what another model decides."""
        vocabulary = None
        if self.vocabulary is not None and other.guesses is not None:
            vocabulary = replace(self.vocabulary, compressed=other.guesses)
        return replace(self, compressed=other.logits, vocabulary=vocabulary, spans=None, embeddings=None)

    def _chosen(self, flags: Bool[np.ndarray, " n"]) -> Pairs:
        return Pairs(
            split=self.split,
            digest=self.digest,
            labels=self.labels[flags],
            original=self.original[flags],
            compressed=self.compressed[flags],
            slices={},
            task=self.task,
            rows=None if self.rows is None else self.rows[flags],
            places=None if self.places is None else self.places[flags],
            names=self.names,
            vocabulary=None if self.vocabulary is None else self.vocabulary.only(flags),
            spans=None if self.spans is None else self.spans.only(flags),
            embeddings=None if self.embeddings is None else self.embeddings.only(flags),
            clusters=None if self.clusters is None else self.clusters[flags],
            text_bytes=None if self.text_bytes is None else self.text_bytes[flags],
            features={name: values[flags] for name, values in self.features.items()},
        )

    @cached_property
    def answers(self) -> Int[np.ndarray, " n"]:
        """The column of the logits that is right: the label, or the first of the choices kept of a vocabulary."""
        return self.labels if self.vocabulary is None else np.zeros_like(self.labels)

    @property
    def decided(self) -> Decided:
        """What the original decided."""
        kept = self.vocabulary
        return Decided(
            logits=self.original,
            choices=None if kept is None else kept.choices,
            guesses=None if kept is None else kept.original,
        )

    @cached_property
    def original_guesses(self) -> Int[np.ndarray, " n"]:
        """The likeliest class of every decision."""
        return self.original.argmax(1) if self.vocabulary is None else self.vocabulary.original

    @cached_property
    def compressed_guesses(self) -> Int[np.ndarray, " n"]:
        return self.compressed.argmax(1) if self.vocabulary is None else self.vocabulary.compressed

    @cached_property
    def original_probabilities(self) -> Float[np.ndarray, "n classes"]:
        return _softmax(self.original)

    @cached_property
    def compressed_probabilities(self) -> Float[np.ndarray, "n classes"]:
        return _softmax(self.compressed)

    @cached_property
    def original_right(self) -> Bool[np.ndarray, " n"]:
        return self.original_guesses == self.labels

    @cached_property
    def compressed_right(self) -> Bool[np.ndarray, " n"]:
        return self.compressed_guesses == self.labels

    def save(self, path: Path) -> None:
        columns: dict[str, object] = {
            "row": np.arange(len(self)) if self.rows is None else self.rows,
            "label": self.labels,
            "original": pa.array(list(self.original.astype(np.float32))),
            "compressed": pa.array(list(self.compressed.astype(np.float32))),
        }
        columns |= {} if self.places is None else {"place": self.places}
        columns |= {} if self.vocabulary is None else self.vocabulary.columns()
        columns |= {} if self.spans is None else self.spans.columns()
        columns |= {} if self.embeddings is None else self.embeddings.columns()
        columns |= {} if self.clusters is None else {"cluster": self.clusters}
        columns |= {} if self.text_bytes is None else {"bytes": self.text_bytes}
        columns |= {_SLICE + name: flags for name, flags in self.slices.items()}
        columns |= {_FEATURE + name: values for name, values in self.features.items()}
        facts: dict[str, Any] = {"split": self.split, "digest": self.digest}
        facts |= {} if self.rows is None else {"task": self.task, "names": self.names}
        facts |= {"described": self.described} if self.described else {}
        table = pa.table(columns).replace_schema_metadata({"compress_explain": json.dumps(facts)})
        pq.write_table(table, path)

    @classmethod
    def load(cls, path: Path) -> Pairs:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[b"compress_explain"])
        several = "place" in table.column_names
        return cls(
            split=facts["split"],
            digest=facts["digest"],
            labels=table["label"].to_numpy(),
            original=np.stack(table["original"].to_numpy()),
            compressed=np.stack(table["compressed"].to_numpy()),
            slices={
                name.removeprefix(_SLICE): table[name].to_numpy()
                for name in table.column_names
                if name.startswith(_SLICE)
            },
            task=facts.get("task", TEXT_CLASSIFICATION),
            rows=table["row"].to_numpy() if several else None,
            places=table["place"].to_numpy() if several else None,
            names=tuple(facts.get("names", ())),
            vocabulary=PairedVocabulary.of_columns(table) if "choices" in table.column_names else None,
            spans=PairedSpans.of_columns(table) if PairedSpans.stands_in(table) else None,
            embeddings=PairedEmbeddings.of_columns(table) if PairedEmbeddings.stands_in(table) else None,
            clusters=table["cluster"].to_numpy() if "cluster" in table.column_names else None,
            text_bytes=table["bytes"].to_numpy() if "bytes" in table.column_names else None,
            described=facts.get("described", {}),
            features={
                name.removeprefix(_FEATURE): _values(table[name])
                for name in table.column_names
                if name.startswith(_FEATURE)
            },
        )


@dataclass(frozen=True, kw_only=True)
class PairedVocabulary:
    """Of decisions among many classes: which the choices but the last are, and which both models find likeliest."""

    choices: Int[np.ndarray, "n chosen"] = field(repr=False)
    original: Int[np.ndarray, " n"] = field(repr=False)
    compressed: Int[np.ndarray, " n"] = field(repr=False)

    def only(self, rows: Bool[np.ndarray, " n"]) -> PairedVocabulary:
        return PairedVocabulary(
            choices=self.choices[rows], original=self.original[rows], compressed=self.compressed[rows]
        )

    def columns(self) -> dict[str, object]:
        """As columns of a table; numbers of 32 bits."""
        return {
            "choices": pa.array(list(self.choices.astype(np.int32))),
            "original_guess": self.original.astype(np.int32),
            "compressed_guess": self.compressed.astype(np.int32),
        }

    @classmethod
    def of_columns(cls, table: pa.Table) -> PairedVocabulary:
        return cls(
            choices=np.stack(table["choices"].to_numpy()).astype(np.int64),
            original=table["original_guess"].to_numpy().astype(np.int64),
            compressed=table["compressed_guess"].to_numpy().astype(np.int64),
        )


def predict(
    model: PreTrainedModel,
    examples: Examples,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> Float[np.ndarray, "n classes"]:
    """Logits of ``model`` on every decision, in the order of the rows."""
    return decide_all(logits_of(model), examples, batch_size, advance).logits


def logits_of(model: PreTrainedModel) -> Forward:
    """What ``model`` makes of a batch of inputs."""

    def forward(inputs: dict[str, torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = logits_in(model(**inputs)).float().numpy()
        return logits

    return forward


def pair(examples: Examples, original: Float[np.ndarray, "n c"], compressed: Float[np.ndarray, "n c"]) -> Pairs:
    """Join two models' logits on one split."""
    return Pairs(
        split=examples.name,
        digest=examples.digest,
        labels=examples.labels,
        original=original,
        compressed=compressed,
        slices=examples.slices,
        task=examples.task,
        features=examples.features,
        described=examples.described,
    )


def paired(examples: Examples, original: Decided, compressed: Decided) -> Pairs:
    """Join what two models decided on one split."""
    if not examples.tokenwise:
        return pair(examples, original.logits, compressed.logits)
    rows = np.repeat(np.arange(len(examples)), examples.decisions)
    vocabulary = None
    if original.choices is not None and original.guesses is not None and compressed.guesses is not None:
        vocabulary = PairedVocabulary(
            choices=original.choices, original=original.guesses, compressed=compressed.guesses
        )
    return Pairs(
        split=examples.name,
        digest=examples.digest,
        task=examples.task,
        original=original.logits,
        compressed=compressed.logits,
        labels=right_answers(examples),
        slices={name: flags[rows] for name, flags in examples.slices.items()},
        rows=rows,
        places=places(examples),
        names=() if examples.tags is None else examples.tags.names,
        vocabulary=vocabulary,
        spans=None if examples.spans is None else PairedSpans.of(examples.spans, original.logits, compressed.logits),
        embeddings=_embeddings(examples, original, compressed),
        clusters=_clusters(examples),
        text_bytes=_bytes_at_first(examples),
    )


def _values(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.to_numpy()
    return values.astype(np.str_) if values.dtype == object else values


def _embeddings(examples: Examples, original: Decided, compressed: Decided) -> PairedEmbeddings | None:
    if examples.neighbours is None:
        return None
    own = examples.neighbours.original if compressed is original else compressed.directions
    assert own is not None, "only of the original the directions are known without computing them"
    return PairedEmbeddings.of(examples.neighbours, own)


def _bytes_at_first(examples: Examples) -> Int[np.ndarray, " n"] | None:
    if examples.text_bytes is None:
        return None
    ends = np.cumsum(examples.decisions)
    counted = np.zeros(ends[-1], dtype=np.int64)
    counted[ends - examples.decisions] = examples.text_bytes
    return counted


def _clusters(examples: Examples) -> Int[np.ndarray, " n"] | None:
    """Of texts in pairs, the pair."""
    if examples.neighbours is None or examples.neighbours.similarity is None:
        return None
    return np.arange(len(examples)) // 2


def _softmax(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
