"""A classifier of many classes, fine-tuned here, once: 50 types of questions."""

from __future__ import annotations

from pathlib import Path

from finetuned import SEED, Schooling

from compress_explain.data.sources import read_rows

SCHOOLING = Schooling(epochs=3, batch=32, rate=1e-4)


def trec_model(encoder: Path, training: Path, cache: Path) -> Path:
    """The folder of ``encoder`` under a new head for column ``fine`` of ``training``.

    It is trained when ``cache`` does not hold it (some eight minutes on one thread).
    """
    rows = read_rows("data", str(training))
    names = sorted(rows["fine"].unique())
    labels = [names.index(name) for name in rows["fine"]]
    folder = cache / "compress-explain" / f"trec-fine-{SCHOOLING.epochs}-{SCHOOLING.batch}-{SCHOOLING.rate:g}-{SEED}"
    return SCHOOLING.model(encoder, rows["text"].tolist(), labels, names, folder)
