"""What pricing in bfloat16 saves in memory, and how far its order is that of float32."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from figures import Row
from fresh import in_fresh_process, peak
from scipy.stats import spearmanr

from compress_explain.data.loading import load_examples
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.pricing import Prices, price

DTYPES = ("float32", "bfloat16")


def dtypes(models: Path, data: Path, rows: int | None) -> list[Row]:
    """One row a type of weights, the agreement with float32 beside it."""
    told, tables = [], []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            out = Path(folder) / f"{dtype}.parquet"
            place = {"model": str(models / "minilm-sst2"), "data": str(data / "sst2" / "dev.csv"), "rows": rows}
            told.append(in_fresh_process("scale_dtype.price_in", dtype=dtype, out=str(out), **place))
            tables.append(Prices.load(out))
    reference = tables[0]
    for row, prices in zip(told, tables, strict=True):
        for kind in ("head", "neuron"):
            for impact in ("loss_change", "kl"):
                chosen = reference.kind_of == kind
                mine, theirs = (each.values[impact][0][chosen] for each in (prices, reference))
                row[f"Spearman {kind}s {impact}"] = float(spearmanr(mine, theirs).statistic)
    return told


def price_in(model: str, data: str, rows: int | None, dtype: str, out: str) -> Row:
    """Price heads and neurons with weights of ``dtype`` and save the table."""
    subject = load_subject(model, "text-classification", dtype)
    examples = load_examples(data, (), subject, rows=rows, max_length=64)
    masks = Masks(subject.model, read_anatomy(subject.model, examples.tokens))
    loaded = peak()
    started = time.perf_counter()
    prices = price(masks, examples)
    seconds = time.perf_counter() - started
    prices.save(Path(out))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in subject.model.parameters()) / 2**20
    return {
        "weights": dtype,
        "rows": len(examples),
        "seconds": seconds,
        "weights MiB": weights,
        "peak before pricing MiB": loaded,
        "peak MiB": peak(),
    }
