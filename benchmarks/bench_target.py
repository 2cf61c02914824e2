"""What the latency table foretells of smaller models, beside what they then take.

    python benchmarks/bench_target.py --model minilm-sst2 --data sst2/dev.csv --tokens 128 --runtimes torch,onnx,int8

For each share of layer FLOPs kept components are drawn at random, another share of every sublayer,
the model is really cut, written in the form that is deployed, and timed in turn with the original.
Which components went does not matter to the clock, only how many of each sublayer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from figures import Row, begin
from options import names

from compress_explain.data.loading import load_examples
from compress_explain.deployment import Int8Dynamic, OnnxRunner, Runner, TorchRunner
from compress_explain.deployment.deploy import FILE, deploy
from compress_explain.deployment.stopwatch import Stopwatch
from compress_explain.editing.surgery import materialize
from compress_explain.model.anatomy import Anatomy, Removed, read_anatomy
from compress_explain.model.loading import load_subject

RUNTIMES = ("torch", "onnx", "int8")


def main() -> None:
    options = _options()
    report = begin(options.out, options.threads)
    torch.set_num_threads(options.threads)
    subject = load_subject(options.model, "text-classification")
    examples = load_examples(options.data, [], subject, rows=64, max_length=64)
    anatomy = read_anatomy(subject.model, options.tokens)
    for runtime in options.runtimes:
        stopwatch = Stopwatch(
            model=subject.model, anatomy=anatomy, examples=examples, runtime="torch" if runtime == "torch" else "onnx",
            scheme=Int8Dynamic(embeddings=8) if runtime == "int8" else None, batch=options.batch, tokens=options.tokens,
            threads=options.threads,
        )  # fmt: skip
        report.add("Target", list(_points(stopwatch, options.kept)))


def _points(stopwatch: Stopwatch, shares: list[float]) -> Iterator[Row]:
    table = stopwatch.table()
    for seed, kept in enumerate(shares):
        removed = _uneven(stopwatch.anatomy, kept, seed)
        with TemporaryDirectory() as folder:
            runner = _deployed(stopwatch, removed, Path(folder))
            original, deployed = stopwatch.against_original(runner, stopwatch.inputs)
        predicted, took = table.predict(removed), deployed.timed
        yield {
            "runtime": stopwatch.name,
            "batch × tokens": f"{stopwatch.batch} × {stopwatch.tokens}",
            "FLOPs kept": f"{1 - stopwatch.anatomy.saved(dict(removed))[1] / stopwatch.anatomy.flops:.3f}",
            "original, ms": original.median,
            "foretold, ms": predicted,
            "measured, ms": took.median,
            "95%": f"{took.low:.2f} to {took.high:.2f}",
            "error": f"{predicted / took.median - 1:+.1%}",
            "times as fast, foretold": f"{table.original.median / predicted:.2f}",
            "measured": f"{deployed.times_faster(original):.2f}",
            "rounds": len(deployed.milliseconds),
            "clock": table.clock,
        }


def _deployed(stopwatch: Stopwatch, removed: Removed, folder: Path) -> Runner:
    smaller = materialize(stopwatch.model, stopwatch.anatomy, removed)
    if stopwatch.runtime == "torch":
        return TorchRunner(model=smaller, threads=stopwatch.threads)
    quantized = stopwatch.anatomy.linears if stopwatch.scheme else ()
    deploy(smaller, stopwatch.anatomy, stopwatch.examples, folder / FILE, scheme=stopwatch.scheme, quantized=quantized)
    return OnnxRunner(path=folder / FILE, threads=stopwatch.threads)


def _uneven(anatomy: Anatomy, kept: float, seed: int) -> Removed:
    """About ``kept`` of the layer FLOPs, sublayers having lost between half and one and a half times the average share."""
    rng = np.random.default_rng(seed)
    flags = {}
    for name, group in anatomy.groups.items():
        share = min(0.95, (1 - kept) * rng.uniform(0.5, 1.5))
        flags[name] = torch.zeros(group.count, dtype=torch.bool)
        flags[name][rng.permutation(group.count)[: round(share * group.count)]] = True
    return flags


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or hub id")
    parser.add_argument("--data", required=True, help="rows to check exports on and to take the timed text from")
    parser.add_argument("--runtimes", type=names(RUNTIMES), default=list(RUNTIMES))
    parser.add_argument("--kept", type=lambda text: [float(each) for each in text.split(",")], default=[0.6, 0.4, 0.25])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
