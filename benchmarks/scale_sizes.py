"""Time and peak memory of a price, by how many examples there are and by how many components."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Bar, Row
from fresh import in_fresh_process, peak
from transformers import BertConfig, BertForSequenceClassification

from compress_explain.data.examples import ALL, Examples
from compress_explain.data.loading import load_examples
from compress_explain.data.slices import SliceRule
from compress_explain.data.sources import read_rows
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.pricing import price

COPIES = (1, 4, 16)
COMPONENTS = (1_000, 10_000, 100_000, 1_000_000)
_LAYERS, _HEADS, _HIDDEN = 8, 4, 64
_VOCABULARY, _TOKENS, _ROWS, _BATCH = 1000, 16, 32, 8


def examples(models: Path, data: Path, rows: int | None) -> list[Row]:
    """One row a number of copies of the dev set; memory holds the examples themselves too."""
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for copies in COPIES:
            frame = read_rows("data", str(data / "sst2" / "dev.csv"), rows)
            file = Path(folder) / f"dev-{copies}.csv"
            frame.loc[np.tile(np.arange(len(frame)), copies)].to_csv(file, index=False)
            told.append(in_fresh_process("scale_sizes.price_file", model=str(models / "minilm-sst2"), data=str(file)))
    for row in told:
        ratio = row["peak MiB"] / told[0]["peak MiB"]
        row["peak to that of one copy"] = ratio
        row |= Bar(1.1, at_least=False).judge(ratio) if row is told[-1] else {"bar": "", "met": ""}
    return told


def price_file(model: str, data: str) -> Row:
    """Price heads and neurons of ``model`` on the rows of a file."""
    subject = load_subject(model, "text-classification")
    started = peak()
    rows = load_examples(data, [SliceRule(name="label", column="label")], subject, max_length=64)
    loaded = peak()
    masks = Masks(subject.model, read_anatomy(subject.model, rows.tokens))
    seconds, count = _timed(masks, rows, 32)
    return {
        "rows": len(rows),
        "components": count,
        "seconds": seconds,
        "ms a row": 1000 * seconds / len(rows),
        "peak with the model MiB": started,
        "and with the examples MiB": loaded,
        "peak MiB": peak(),
    }


def components(largest: int) -> list[Row]:
    """One row a random encoder."""
    counts = [count for count in COMPONENTS if count <= largest]
    return [in_fresh_process("scale_sizes.price_random", count=count) for count in counts]


def price_random(count: int) -> Row:
    """Price all heads and neurons of a random encoder that has about ``count`` of them."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_HIDDEN,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        intermediate_size=count // _LAYERS - _HEADS,
        num_labels=2,
    )
    model = BertForSequenceClassification(config).eval()
    started = peak()
    masks = Masks(model, read_anatomy(model, _TOKENS))
    seconds, found = _timed(masks, _random_rows(), _BATCH)
    return {
        "components": found,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": _ROWS,
        "seconds": seconds,
        "µs a component": 1e6 * seconds / found,
        "peak with the model MiB": started,
        "peak MiB": peak(),
    }


def _timed(masks: Masks, rows: Examples, batch_size: int) -> tuple[float, int]:
    """Seconds of one price after one run of the model, and the components priced."""
    with torch.inference_mode():
        masks.model(**next(rows.batches(batch_size)).inputs)
    started = time.perf_counter()
    prices = price(masks, rows, batch_size=batch_size)
    return time.perf_counter() - started, len(prices)


def _random_rows() -> Examples:
    generator = np.random.default_rng(0)
    inputs: dict[str, Any] = {
        "input_ids": list(generator.integers(3, _VOCABULARY, (_ROWS, _TOKENS))),
        "attention_mask": list(np.ones((_ROWS, _TOKENS), dtype=np.int64)),
    }
    return Examples(
        name="random",
        inputs=inputs,
        labels=generator.integers(0, 2, _ROWS),
        slices={ALL: np.ones(_ROWS, dtype=bool)},
        texts=tuple(map(str, range(_ROWS))),
        digest="random",
        padding={"input_ids": 0, "attention_mask": 0},
    )
