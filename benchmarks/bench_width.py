"""What taking channels out of the stream is foretold to do, with the slope at one point of the way and at three.

    python benchmarks/bench_width.py --models MODELS --data DATA

``minilm-sst2``: channels are ranked on 64 training sentences by importances of Torch-Pruning; the loss without so many of them,
on the first rows of dev, is put beside what each way of foretelling says of it. Nothing is refitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from compress_explain.choosing.channel_worth import importance
from compress_explain.comparison.predictions import predict
from compress_explain.data.examples import Examples
from compress_explain.data.loading import DataSpec, load_splits
from compress_explain.editing.depgraph import find_stream
from compress_explain.editing.masks import Masks
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.pricing.channels import channels_move

POINTS = {"at the start": 0.0, "half-way": 0.5, "at three points": None}


def foretold(masks: Masks, rows: Examples, channels: Sequence[str], strength: float | None) -> float:
    """The change of the mean loss, nats, that moved logits come to."""
    total = 0.0
    for batch in rows.batches(32):
        labels = torch.from_numpy(rows.labels[batch.rows])
        with torch.no_grad():
            before = masks.model(**batch.inputs).logits
        after = before + channels_move(masks, rows, batch, channels, strength)
        total += sum(
            sign * float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            for sign, logits in ((1, after), (-1, before))
        )
    return total / len(rows)


def seen(masks: Masks, rows: Examples, channels: Sequence[str]) -> float:
    labels = torch.from_numpy(rows.labels)
    with masks:
        before = torch.from_numpy(predict(masks.model, rows, 32))
        masks.remove(channels)
        after = torch.from_numpy(predict(masks.model, rows, 32))
        masks.restore(channels)
    return float(torch.nn.functional.cross_entropy(after, labels) - torch.nn.functional.cross_entropy(before, labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject, data = load_subject(str(options.models / "minilm-sst2"), "text-classification"), options.data / "sst2"
    spec = DataSpec(
        calibration=str(data / "train_sentences.csv"), validation=str(data / "dev.csv"), test=str(data / "test.csv"),
        calibration_rows=64, max_length=64, overlap="drop",
    )  # fmt: skip
    splits = load_splits(spec, [], subject, 0)
    calibration, rows = splits.calibration, splits.validation.draw(options.rows, 0)
    anatomy = read_anatomy(subject.model, tokens_of(subject, calibration))
    masks = Masks(
        subject.model, anatomy.with_stream(find_stream(subject.model, anatomy, next(calibration.batches(2)).inputs))
    )
    for name in ("magnitude", "taylor", "hessian", "random"):
        order = np.argsort(importance(masks, calibration, name, batch_size=32, seed=0).numpy()).tolist()
        for count in (32, 96):
            channels = [f"stream.channel.{channel}" for channel in order[:count]]
            told = ", ".join(f"{at} {foretold(masks, rows, channels, s):+.3f}" for at, s in POINTS.items())
            print(f"{name}, {count} of {len(order)} gone: {told}; seen {seen(masks, rows, channels):+.3f}", flush=True)


if __name__ == "__main__":
    main()
