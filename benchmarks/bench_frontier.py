"""How accurate what is left still is, against the FLOPs of its layers: ours, and others' ways of choosing.

    python benchmarks/bench_frontier.py --models MODELS --data DATA --cache CACHE --cases sst2,agnews --kept 0.4,0.3,0.25

MODELS holds minilm-sst2 and minilm-agnews, DATA the folders sst2 and agnews; the quickstart's vision model (digits) and a
language model of docstrings are trained into CACHE when they are not there. Nothing is trained that is smaller:
refits see 4,096 training rows (of the digits the validation split, of docstrings 512), accuracy is on data that nothing was
fitted to; of a language model it is that of the next token, on rows that it was not trained on. Seconds are those of making
a point, how many times as fast is one row of median length in torch, by medians of calls in turn with the original. The
methods are

compensated   strategy structured, and what is left refitted after every round
bare          the same strategy, nothing refitted
textpruner    after TextPruner (Yang et al. 2022): the size of each head's and neuron's mask gradient, sixteen times over
taylor        Torch-Pruning's group Taylor importance, in one go
hessian       Torch-Pruning's group Hessian importance, in one go
magnitude     Torch-Pruning's group magnitude, in one go
random        components drawn at random

The peers learn from the labels of the same rows (--peer-rows of them at most); ours sees none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import peers
from figures import Row, begin
from judged import judged, ours_better
from options import names
from subjects import CASES, Case, Places, columns, texts
from transformers import PreTrainedModel

from compress_explain.comparison.decided import Decided, decide_all
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.compensation import Compensation, Compensator
from compress_explain.data.examples import Examples
from compress_explain.data.perturbed import perturbed
from compress_explain.deployment import TorchRunner, measure
from compress_explain.editing.masks import Masks
from compress_explain.editing.surgery import materialize
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.plugins.strategy import Situation
from compress_explain.pricing import MOVES, price
from compress_explain.strategies import Structured

METHODS = ("compensated", "bare", "textpruner", "taylor", "hessian", "magnitude", "random")
ITERATIONS = 16  # of TextPruner, as in its own best results
BATCH = 64
CALLS = 15  # of the original and of what is left of it, in turn
ROWS = 4096  # for the last refit; prices and the refits of rounds see fewer


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


TRAINED_HERE = ("digits", "docstrings")


@dataclass(kw_only=True)
class Trials:
    """One model, made smaller in several ways; ``ours`` is what it then said, compensated, by FLOPs and split."""

    name: str
    model: PreTrainedModel = field(repr=False)
    training: Examples = field(repr=False)
    judging: dict[str, Examples] = field(repr=False)
    loss: peers.Loss = field(repr=False)
    tokens: int
    originals: dict[str, Decided] = field(default_factory=dict, repr=False)
    ours: dict[tuple[float, str], Decided] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.originals = {split: self._decided(rows) for split, rows in self.judging.items()}

    def point(self, method: str, kept: float, options: argparse.Namespace) -> Iterator[Row]:
        """With ``kept`` of its layer FLOPs, made from the original and judged on every split."""
        with Masks(self.model, read_anatomy(self.model, self.tokens)) as masks:
            start = time.perf_counter()
            _compress(masks, self, method, kept, options)
            seconds = time.perf_counter() - start
            parameters, flops = masks.saved
            left = 1 - flops / masks.anatomy.flops
            faster = self._times_as_fast(masks)
            for split, rows in self.judging.items():
                decided = self._decided(rows, self.originals[split].choices)
                if method == METHODS[0]:
                    self.ours[kept, split] = decided
                yield {
                    "case": self.name,
                    "method": method,
                    "FLOPs": f"{left:.3f}",
                    "fewer": f"{1 / left:.2f} ×",
                    "parameters": f"{1 - parameters / masks.anatomy.parameters:.3f}",
                    "as fast": f"{faster:.2f} ×",
                    "split": split,
                    **judged(paired(rows, self.originals[split], decided)),
                    **ours_better(self._beside_ours(rows, kept, split, decided)),
                    "seconds": f"{seconds:.0f}",
                }

    def _decided(self, rows: Examples, choices: np.ndarray | None = None) -> Decided:
        return decide_all(logits_of(self.model), rows, BATCH, choices=choices)

    def _times_as_fast(self, masks: Masks) -> float:
        rows = next(iter(self.judging.values()))
        median = np.argsort(rows.lengths, kind="stable")[len(rows) // 2 :][:1]
        inputs = next(rows.batches(1, median)).inputs
        standing = masks.standing
        with masks.untouched():
            left = materialize(masks.model, masks.anatomy, masks.removed, standing)
            runners = {"original": TorchRunner(model=masks.model), "left": TorchRunner(model=left)}
            timed = measure(runners, inputs, rounds=CALLS, warm_up=3)
        return timed["original"].median / timed["left"].median

    def _beside_ours(self, rows: Examples, kept: float, split: str, decided: Decided) -> Pairs | None:
        """The method at hand and ours, on the same rows at the same FLOPs; None where ours was not made."""
        ours = self.ours.get((kept, split))
        return None if ours is None else paired(rows, decided, ours)


def _trials(name: str, options: argparse.Namespace) -> Trials:
    if name in TRAINED_HERE:
        return _trained_here(CASES[name](Places(models=options.models, data=options.data, cache=options.cache)))
    source, data = SOURCES[name], options.data
    subject, length = load_subject(str(options.models / source.model), "text-classification"), source.max_length
    training = texts(data / source.training, (), subject, options.rows, max_length=length)
    judging = {
        split: texts(data / file, columns(*source.slices), subject, None, max_length=length)
        for split, file in source.judging.items()
    }
    return Trials(
        name=name, model=subject.model, training=training, judging=judging, loss=peers.classification_loss,
        tokens=tokens_of(subject, training),
    )  # fmt: skip


def _trained_here(case: Case) -> Trials:
    assert case.calibration is not None, "all of these have other rows to learn from"
    return Trials(
        name=case.name, model=case.model, training=case.calibration, judging={"test": case.examples}, loss=case.loss,
        tokens=case.masks.anatomy.tokens,
    )  # fmt: skip


def main() -> None:
    options = _options()
    report = begin(options.out, options.threads)
    for name in options.cases:
        trials = _trials(name, options)
        for method in sorted(options.methods, key=METHODS.index):
            for kept in options.kept:
                report.add("Frontier", list(trials.point(method, kept, options)))


def _compress(masks: Masks, trials: Trials, method: str, kept: float, options: argparse.Namespace) -> None:
    training = trials.training
    if method in ("compensated", "bare"):
        _ours(masks, training, kept, options, refits=method == "compensated")
        return
    some = training.draw(options.peer_rows, seed=0)
    if method == "textpruner":
        _textpruner(masks, some, kept, trials.loss)
    elif method == "random":
        everything = [component for group in masks.anatomy.groups.values() for component in group.components]
        _take(masks, np.random.default_rng(0).permutation(everything).tolist(), kept)
    else:
        _take(masks, _ascending(_torch_pruning(masks, some, method, trials.loss).scores()), kept)


def _ours(masks: Masks, training: Examples, kept: float, options: argparse.Namespace, *, refits: bool) -> None:
    strategy = Structured(flops_kept=kept, step=options.step, rows=options.priced)
    compensation = Compensation(ridge=options.ridge, rows_a_round=options.fitted)
    pricing = perturbed(training.draw(strategy.rows, seed=0))
    passing = Compensator(masks, training.draw(compensation.rows_a_round, seed=0), compensation, BATCH)
    for number in range(strategy.rounds):
        prices = price(masks, pricing, kinds=strategy.kinds, batch_size=BATCH, moves=MOVES)
        situation = Situation(anatomy=masks.anatomy, prices=prices, removed=masks.removed, round=number)
        masks.remove(edit.component for edit in strategy.plan(situation))
        if refits and number + 1 < strategy.rounds:
            passing.refit()
    if refits:
        Compensator(masks, training, compensation, BATCH).refit(anew=True)


def _torch_pruning(masks: Masks, training: Examples, method: str, loss: peers.Loss) -> peers.Ranking:
    if method == "taylor":
        return peers.taylor(masks, training, loss=loss, batch_size=BATCH)
    if method == "hessian":
        return peers.hessian(masks, training, loss=loss)
    return peers.magnitude(masks, training)


def _textpruner(masks: Masks, training: Examples, kept: float, loss: peers.Loss) -> None:
    """Heads and neurons in proportion, those of one kind ranked over all layers, and scored anew after every part.

    The package itself no longer runs: it passes the masks of heads to models that ignore them now.
    """
    for iteration in range(1, ITERATIONS + 1):
        scores = peers.michel(masks, training, loss=loss, batch_size=BATCH).scores()
        until = 1 - (1 - kept) * iteration / ITERATIONS
        for kind in masks.anatomy.kinds:
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs"), help="for models that are trained here")
    parser.add_argument("--cases", type=names((*SOURCES, *TRAINED_HERE)), default=["sst2", "agnews"])
    parser.add_argument("--methods", type=names(METHODS), default=list(METHODS))
    parser.add_argument("--kept", type=lambda text: [float(each) for each in text.split(",")], default=[0.4, 0.3, 0.25])
    parser.add_argument("--step", type=float, default=0.1, help="of the strategy: what a round takes of what is left")
    parser.add_argument("--priced", type=int, default=512, help="of the training rows, how many prices see")
    parser.add_argument("--ridge", type=float, default=Compensation().ridge)
    parser.add_argument("--fitted", type=int, default=Compensation().rows_a_round, help="and the refits of rounds")
    parser.add_argument("--rows", type=int, default=ROWS, help="training rows that the last refit sees")
    parser.add_argument("--peer-rows", type=int, default=ROWS, help="training rows that peers see")
    parser.add_argument("--threads", type=int, help="of this process (default: as torch finds them)")
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
