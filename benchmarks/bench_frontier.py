"""How accurate what is left still is, against the FLOPs of its layers: ours, and others' ways of choosing.

    python benchmarks/bench_frontier.py --models MODELS --data DATA --cases sst2,agnews --kept 0.4,0.3,0.25

MODELS holds minilm-sst2 and minilm-agnews, DATA the folders sst2 and agnews. Nothing is trained:
prices and refits see 1,024 training rows, accuracy is on data that nothing was fitted to. The
methods are

compensated   strategy structured, and what is left refitted after every round
bare          the same strategy, nothing refitted
magnitude     Torch-Pruning's group magnitude, in one go, then nothing, for scale
random        components drawn at random
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import peers
import torch
from figures import Report, Row, setup
from options import names

from compress_explain.anatomy import read_anatomy
from compress_explain.compensation import Compensation, Compensator
from compress_explain.data import load_examples
from compress_explain.examples import ALL, Examples
from compress_explain.inquiry import tokens_of
from compress_explain.masks import Masks
from compress_explain.models import Subject, load_subject, quieten
from compress_explain.predictions import Pairs, pair, predict
from compress_explain.pricing import MOVES, price
from compress_explain.slices import SliceRule
from compress_explain.stats import paired_accuracy_interval
from compress_explain.strategies import Structured
from compress_explain.strategy import Situation

METHODS = ("compensated", "bare", "magnitude", "random")
BATCH = 64
FEWEST = 40  # rows of a slice that is looked at
ROWS = 1024  # that prices and refits see


@dataclass(frozen=True, kw_only=True)
class Subjected:
    """A model, the training rows that it may be compressed with, and rows to judge it on."""

    name: str
    subject: Subject = field(repr=False)
    training: Examples = field(repr=False)
    judging: dict[str, Examples] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a subject comes from."""

    model: str
    training: str
    judging: dict[str, str]
    slices: tuple[str, ...]
    max_length: int

    def load(self, name: str, models: Path, data: Path, rows: int) -> Subjected:
        subject = load_subject(str(models / self.model), "text-classification")
        rules = [SliceRule(name=column, column=column) for column in self.slices]
        return Subjected(
            name=name,
            subject=subject,
            training=load_examples(str(data / self.training), [], subject, rows=rows, max_length=self.max_length),
            judging={
                split: load_examples(str(data / file), rules, subject, max_length=self.max_length)
                for split, file in self.judging.items()
            },
        )


SOURCES = {
    "sst2": Source(
        model="minilm-sst2", training="sst2/train_sentences.csv", max_length=64,
        judging={"dev": "sst2/dev.csv", "test": "sst2/test.csv"}, slices=("label", "negation", "contrast", "len_bin"),
    ),
    "agnews": Source(
        model="minilm-agnews", training="agnews/train.csv", max_length=96,
        judging={"test": "agnews/test.csv"}, slices=("label", "wire"),
    ),
}  # fmt: skip


def main() -> None:
    options = _options()
    quieten()
    if options.threads:
        torch.set_num_threads(options.threads)
    report = Report(path=options.out)
    print(", ".join(f"{name} {value}" for name, value in setup().items()), flush=True)
    for name in options.cases:
        case = SOURCES[name].load(name, options.models, options.data, options.rows)
        originals = {split: predict(case.subject.model, rows, BATCH) for split, rows in case.judging.items()}
        for method in options.methods:
            for kept in options.kept:
                report.add("Frontier", list(_point(case, method, kept, originals, options)))


def _point(
    case: Subjected, method: str, kept: float, originals: dict[str, np.ndarray], options: argparse.Namespace
) -> Iterator[Row]:
    """One model with ``kept`` of its layer FLOPs, made from the original and judged on every split."""
    masks = Masks(case.subject.model, read_anatomy(case.subject.model, tokens_of(case.subject, case.training)))
    with masks:
        start = time.perf_counter()
        _compress(masks, case.training, method, kept, options)
        seconds = time.perf_counter() - start
        left = 1 - masks.anatomy.saved(masks.removed)[1] / masks.anatomy.flops
        for split, rows in case.judging.items():
            pairs = pair(rows, originals[split], predict(masks.model, rows, BATCH))
            yield {
                "case": case.name,
                "method": method,
                "FLOPs": f"{left:.3f}",
                "fewer": f"{1 / left:.2f} ×",
                "split": split,
                **_judged(pairs),
                "seconds": f"{seconds:.0f}",
            }


def _compress(masks: Masks, training: Examples, method: str, kept: float, options: argparse.Namespace) -> None:
    if method == "magnitude":
        scores = peers.magnitude(masks, training).scores()
        _take(masks, sorted(scores, key=lambda component: scores[component]), kept)
        return
    if method == "random":
        everything = [component for group in masks.anatomy.groups.values() for component in group.components]
        _take(masks, np.random.default_rng(0).permutation(everything).tolist(), kept)
        return
    strategy = Structured(flops_kept=kept, rounds=options.rounds or _rounds(kept))
    compensator = Compensator(masks, training, Compensation(ridge=options.ridge), BATCH)
    for number in range(strategy.rounds):
        prices = price(masks, training, kinds=strategy.kinds, batch_size=BATCH, moves=MOVES)
        situation = Situation(anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=number)
        masks.remove(edit.component for edit in strategy.plan(situation))
        if method == "compensated":
            compensator.refit()


def _rounds(kept: float) -> int:
    """So many that each takes about a seventh of what is left."""
    return max(1, round(np.log(kept) / np.log(6 / 7)))


def _take(masks: Masks, order: Sequence[str], kept: float) -> None:
    """Remove components in ``order`` until only ``kept`` of the FLOPs are left; each group keeps one."""
    need = (1 - kept) * masks.anatomy.flops
    for component in order:
        group, _ = masks.anatomy.locate(component)
        if need <= 0:
            return
        if int((~masks.removed[group.name]).sum()) > 1:
            masks.remove([component])
            need -= group.flops


def _judged(pairs: Pairs) -> Row:
    lost, won = _flips(pairs)
    low, high = paired_accuracy_interval(lost, won, len(pairs))
    parts = {name: pairs.only(name) for name, rows in pairs.slices.items() if name != ALL and rows.sum() >= FEWEST}
    drops = {name: part.compressed_right.mean() - part.original_right.mean() for name, part in parts.items()}
    worst = min(drops, key=lambda name: drops[name])
    return {
        "n": len(pairs),
        "original": f"{pairs.original_right.mean():.4f}",
        "accuracy": f"{pairs.compressed_right.mean():.4f}",
        "points (95%)": f"{100 * (won - lost) / len(pairs):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
        "agreement": f"{(pairs.original.argmax(1) == pairs.compressed.argmax(1)).mean():.4f}",
        "worst slice, points": f"{worst} {100 * drops[worst]:+.1f}",
    }


def _flips(pairs: Pairs) -> tuple[int, int]:
    lost = int((pairs.original_right & ~pairs.compressed_right).sum())
    return lost, int((~pairs.original_right & pairs.compressed_right).sum())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=names(SOURCES), default=["sst2", "agnews"])
    parser.add_argument("--methods", type=names(METHODS), default=list(METHODS))
    parser.add_argument("--kept", type=lambda text: [float(each) for each in text.split(",")], default=[0.4, 0.3, 0.25])
    parser.add_argument("--rounds", type=int, help="of the strategy (default: by how much is to go)")
    parser.add_argument("--ridge", type=float, default=Compensation().ridge)
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows to price and refit on")
    parser.add_argument("--threads", type=int, help="of this process (default: as torch finds them)")
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
