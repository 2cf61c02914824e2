"""Paired predictions: both models' outputs on the same rows. The source of truth for every score."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedModel

from compress_explain.examples import Examples

_SLICE = "slice:"  # prefix of the membership columns in the Parquet file


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Logits of both models on one split, with labels and slice membership."""

    split: str
    digest: str
    labels: Int[np.ndarray, " n"] = field(repr=False)
    original: Float[np.ndarray, "n classes"] = field(repr=False)
    compressed: Float[np.ndarray, "n classes"] = field(repr=False)
    slices: dict[str, Bool[np.ndarray, " n"]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, slice_name: str) -> Pairs:
        """The pairs of one slice."""
        rows = self.slices[slice_name]
        return Pairs(
            split=self.split,
            digest=self.digest,
            labels=self.labels[rows],
            original=self.original[rows],
            compressed=self.compressed[rows],
            slices={},
        )

    @cached_property
    def original_probabilities(self) -> Float[np.ndarray, "n classes"]:
        return _softmax(self.original)

    @cached_property
    def compressed_probabilities(self) -> Float[np.ndarray, "n classes"]:
        return _softmax(self.compressed)

    @cached_property
    def original_right(self) -> Bool[np.ndarray, " n"]:
        return self.original.argmax(1) == self.labels

    @cached_property
    def compressed_right(self) -> Bool[np.ndarray, " n"]:
        return self.compressed.argmax(1) == self.labels

    def save(self, path: Path) -> None:
        columns: dict[str, object] = {
            "row": np.arange(len(self)),
            "label": self.labels,
            "original": pa.array(list(self.original.astype(np.float32))),
            "compressed": pa.array(list(self.compressed.astype(np.float32))),
        }
        columns |= {_SLICE + name: flags for name, flags in self.slices.items()}
        facts = {"split": self.split, "digest": self.digest}
        table = pa.table(columns).replace_schema_metadata({"compress_explain": json.dumps(facts)})
        pq.write_table(table, path)

    @classmethod
    def load(cls, path: Path) -> Pairs:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[b"compress_explain"])
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
        )


def predict(
    model: PreTrainedModel,
    examples: Examples,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> Float[np.ndarray, "n classes"]:
    """Logits of ``model`` on every row, in the order of the rows."""
    logits: np.ndarray | None = None
    with torch.inference_mode():
        for batch in examples.batches(batch_size):
            output = model(**batch.inputs).logits.float().numpy()
            if logits is None:
                logits = np.empty((len(examples), output.shape[1]), dtype=np.float32)
            logits[batch.rows] = output
            advance(len(batch.rows))
    assert logits is not None, "a split is never empty"
    return logits


def pair(examples: Examples, original: Float[np.ndarray, "n c"], compressed: Float[np.ndarray, "n c"]) -> Pairs:
    """Join two models' logits on one split."""
    return Pairs(
        split=examples.name,
        digest=examples.digest,
        labels=examples.labels,
        original=original,
        compressed=compressed,
        slices=examples.slices,
    )


def _softmax(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
