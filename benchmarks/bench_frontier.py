"""How accurate what is left still is, against the FLOPs of its layers: ours, and others' ways of choosing.

    python benchmarks/bench_frontier.py --models MODELS --data DATA --cases sst2,agnews --kept 0.4,0.3,0.25

MODELS holds minilm-sst2 and minilm-agnews, DATA the folders sst2 and agnews. Nothing is trained:
prices and refits see 1,024 training rows, accuracy is on data that nothing was fitted to. The
methods are

compensated   strategy structured, and what is left refitted after every round
bare          the same strategy, nothing refitted
textpruner    after TextPruner (Yang et al. 2022): the size of each head's and neuron's mask gradient, sixteen times over
taylor        Torch-Pruning's group Taylor importance, in one go
hessian       Torch-Pruning's group Hessian importance, in one go
magnitude     Torch-Pruning's group magnitude, in one go
random        components drawn at random

The peers learn from the labels of the same rows; ours sees none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import peers
from figures import Row, begin
from options import names
from subjects import columns, texts
from transformers import PreTrainedModel

from compress_explain.anatomy import read_anatomy
from compress_explain.compensation import Compensation, Compensator
from compress_explain.examples import ALL, Examples
from compress_explain.inquiry import tokens_of
from compress_explain.masks import Masks
from compress_explain.models import load_subject
from compress_explain.predictions import Pairs, pair, predict
from compress_explain.pricing import MOVES, observed_joint, price
from compress_explain.scores import METRICS, score
from compress_explain.strategies import Structured
from compress_explain.strategy import Situation

METHODS = ("compensated", "bare", "textpruner", "taylor", "hessian", "magnitude", "random")
ITERATIONS = 16  # of TextPruner, as in its own best results
BATCH = 64
FEWEST = 40  # rows of a slice that is looked at
ROWS = 1024  # that prices and refits see


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model, the training rows that it may be compressed with, and rows to judge it on."""

    model: str
    training: str
    judging: dict[str, str]
    slices: tuple[str, ...]
    max_length: int


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


@dataclass(kw_only=True)
class Trials:
    """One model, made smaller in several ways; ``ours`` is what it then said, compensated, by FLOPs and split."""

    name: str
    model: PreTrainedModel = field(repr=False)
    training: Examples = field(repr=False)
    judging: dict[str, Examples] = field(repr=False)
    originals: dict[str, np.ndarray] = field(repr=False)
    tokens: int
    ours: dict[tuple[float, str], np.ndarray] = field(default_factory=dict, repr=False)

    def point(self, method: str, kept: float, options: argparse.Namespace) -> Iterator[Row]:
        """With ``kept`` of its layer FLOPs, made from the original and judged on every split."""
        with Masks(self.model, read_anatomy(self.model, self.tokens)) as masks:
            start = time.perf_counter()
            _compress(masks, self.training, method, kept, options)
            seconds = time.perf_counter() - start
            left = 1 - masks.anatomy.saved(masks.removed)[1] / masks.anatomy.flops
            for split, rows in self.judging.items():
                logits = predict(masks.model, rows, BATCH)
                if method == METHODS[0]:
                    self.ours[kept, split] = logits
                yield {
                    "case": self.name,
                    "method": method,
                    "FLOPs": f"{left:.3f}",
                    "fewer": f"{1 / left:.2f} ×",
                    "split": split,
                    **_judged(pair(rows, self.originals[split], logits)),
                    "ours better by, points (95%)": self._ours_better(rows, kept, split, logits),
                    "seconds": f"{seconds:.0f}",
                }

    def _ours_better(self, rows: Examples, kept: float, split: str, logits: np.ndarray) -> str:
        """Ours less the method at hand, on the same rows at the same FLOPs."""
        ours = self.ours.get((kept, split))
        return "" if ours is None else _difference(pair(rows, logits, ours))


def _trials(name: str, options: argparse.Namespace) -> Trials:
    source, data = SOURCES[name], options.data
    subject, length = load_subject(str(options.models / source.model), "text-classification"), source.max_length
    training = texts(data / source.training, (), subject, options.rows, max_length=length)
    judging = {
        split: texts(data / file, columns(*source.slices), subject, None, max_length=length)
        for split, file in source.judging.items()
    }
    return Trials(
        name=name,
        model=subject.model,
        training=training,
        judging=judging,
        originals={split: predict(subject.model, rows, BATCH) for split, rows in judging.items()},
        tokens=tokens_of(subject, training),
    )


def main() -> None:
    options = _options()
    report = begin(options.out, options.threads)
    for name in options.cases:
        trials = _trials(name, options)
        for method in sorted(options.methods, key=METHODS.index):
            for kept in options.kept:
                report.add("Frontier", list(trials.point(method, kept, options)))


def _compress(masks: Masks, training: Examples, method: str, kept: float, options: argparse.Namespace) -> None:
    if method in ("compensated", "bare"):
        _ours(masks, training, kept, options, refits=method == "compensated")
    elif method == "textpruner":
        _textpruner(masks, training, kept)
    elif method == "random":
        everything = [component for group in masks.anatomy.groups.values() for component in group.components]
        _take(masks, np.random.default_rng(0).permutation(everything).tolist(), kept)
    else:
        _take(masks, _ascending(_torch_pruning(masks, training, method).scores()), kept)


def _ours(masks: Masks, training: Examples, kept: float, options: argparse.Namespace, *, refits: bool) -> None:
    strategy, pricing = Structured(flops_kept=kept, step=options.step), training.draw(options.priced, seed=0)
    compensator = Compensator(masks, training, Compensation(ridge=options.ridge), BATCH)
    for number in range(strategy.rounds):
        prices = price(masks, pricing, kinds=strategy.kinds, batch_size=BATCH, moves=MOVES)
        situation = Situation(anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=number)
        masks.remove(edit.component for edit in strategy.plan(situation))
        if refits:
            compensator.refit()


def _torch_pruning(masks: Masks, training: Examples, method: str) -> peers.Ranking:
    if method == "taylor":
        return peers.taylor(masks, training, loss=peers.classification_loss, batch_size=BATCH)
    if method == "hessian":
        return peers.hessian(masks, training, loss=peers.classification_loss)
    return peers.magnitude(masks, training)


def _textpruner(masks: Masks, training: Examples, kept: float) -> None:
    """Heads and neurons in proportion, those of one kind ranked over all layers, and scored anew after every part.

    The package itself no longer runs: it passes the masks of heads to models that ignore them now.
    """
    for iteration in range(1, ITERATIONS + 1):
        scores = peers.michel(masks, training, loss=peers.classification_loss, batch_size=BATCH).scores()
        until = 1 - (1 - kept) * iteration / ITERATIONS
        for kind in ("head", "neuron"):
            of_kind = {name for group in masks.anatomy.of_kind(kind) for name in group.components}
            left = [name for name in _ascending(scores) if name in of_kind and not masks.is_removed(name)]
            _take(masks, left, until, of_kind)


def _ascending(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda component: scores[component])


def _take(masks: Masks, order: Sequence[str], kept: float, among: Collection[str] = ()) -> None:
    """Remove components in ``order`` until only ``kept`` of the FLOPs are left; each group keeps one.

    Counted are those of ``among``, or of all layers.
    """
    groups = [group for group in masks.anatomy.groups.values() if not among or group.components[0] in among]
    left = sum(group.flops * int((~masks.removed[group.name]).sum()) for group in groups)
    need = left - kept * sum(group.flops * group.count for group in groups)
    for component in order:
        group, _ = masks.anatomy.locate(component)
        if need <= 0:
            return
        if int((~masks.removed[group.name]).sum()) > 1:
            masks.remove([component])
            need -= group.flops


def _judged(pairs: Pairs) -> Row:
    parts = {name: pairs.only(name) for name, rows in pairs.slices.items() if name != ALL and rows.sum() >= FEWEST}
    drops = {name: part.compressed_right.mean() - part.original_right.mean() for name, part in parts.items()}
    worst = min(drops, key=lambda name: drops[name])
    return {
        "n": len(pairs),
        "original": f"{pairs.original_right.mean():.4f}",
        "accuracy": f"{pairs.compressed_right.mean():.4f}",
        "points (95%)": _difference(pairs),
        "KL": observed_joint(replace(pairs, compressed=pairs.original), pairs).kl,
        "agreement": f"{(pairs.original.argmax(1) == pairs.compressed.argmax(1)).mean():.4f}",
        "worst slice, points": f"{worst} {100 * drops[worst]:+.1f}",
    }


def _difference(pairs: Pairs) -> str:
    """Of the accuracies, in points, with its interval."""
    found = score(pairs, METRICS["accuracy"], ALL, confidence=0.95)
    return f"{100 * found.difference:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=names(SOURCES), default=["sst2", "agnews"])
    parser.add_argument("--methods", type=names(METHODS), default=list(METHODS))
    parser.add_argument("--kept", type=lambda text: [float(each) for each in text.split(",")], default=[0.4, 0.3, 0.25])
    parser.add_argument("--step", type=float, default=0.1, help="of the strategy: what a round takes of what is left")
    parser.add_argument("--priced", type=int, default=512, help="of the training rows, how many prices see")
    parser.add_argument("--ridge", type=float, default=Compensation().ridge)
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows to refit on")
    parser.add_argument("--threads", type=int, help="of this process (default: as torch finds them)")
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
