"""Linears factored along what enters them against plain singular value decomposition, at the same ranks.

    python benchmarks/bench_low_rank.py --models MODELS --data DATA --kept 0.7 0.5

``minilm-sst2``: prices and second moments from 1,024 training sentences, the ranks chosen by ``low_rank`` for each budget,
and then every linear given that rank in either way. Measured on dev and test, which nothing was chosen on, and with
``--refitted`` again after the rest was refitted (``compensation``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax

from compress_explain.choosing.spectra import find_spectra, menu_now
from compress_explain.comparison.predictions import predict
from compress_explain.compensation import Compensation, Compensator
from compress_explain.data.examples import Examples
from compress_explain.data.loading import DataSpec, Splits, load_splits
from compress_explain.data.perturbed import perturbed
from compress_explain.editing.edits import Edit
from compress_explain.editing.masks import Masks
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.plugins.strategy import Situation
from compress_explain.pricing import MOVES, price
from compress_explain.strategies import LowRank

Logits = Mapping[str, np.ndarray]  # by split


def chosen(masks: Masks, calibration: Examples, kept: float) -> tuple[Edit, ...]:
    """What ``low_rank`` proposes, asked as a run asks it."""
    strategy = LowRank(flops_kept=kept)
    menu = menu_now(masks, strategy)
    some = calibration.draw(strategy.rows, 0)
    prices = price(masks, some, menu=menu)
    unfamiliar = price(masks, perturbed(some, 0), menu=menu, moves=MOVES)
    return strategy.plan(
        Situation(
            anatomy=masks.anatomy,
            prices=prices,
            unfamiliar=unfamiliar,
            removed=masks.removed,
            round=0,
            spectra=masks.spectra,
        )
    )


def judged(masks: Masks, splits: Sequence[Examples], original: Logits) -> Iterator[str]:
    """Accuracy and KL from the original, in nats, on each split."""
    for split in splits:
        ours = predict(masks.model, split, 32)
        now, was = (log_softmax(each.astype(np.float64), axis=1) for each in (ours, original[split.name]))
        kl = float((np.exp(was) * (was - now)).sum(1).mean())
        yield f"{split.name}: accuracy {(ours.argmax(1) == split.labels).mean():.4f}, KL {kl:.4f}"


def load(models: Path, data: Path) -> tuple[Masks, Splits]:
    subject = load_subject(str(models / "minilm-sst2"), "text-classification")
    spec = DataSpec(
        calibration=str(data / "sst2" / "train_sentences.csv"), validation=str(data / "sst2" / "dev.csv"),
        test=str(data / "sst2" / "test.csv"), calibration_rows=1024, max_length=64, overlap="drop",
    )  # fmt: skip
    splits = load_splits(spec, [], subject, 0)
    return Masks(subject.model, read_anatomy(subject.model, tokens_of(subject, splits.calibration))), splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--refitted", action="store_true", help="measure again once the rest is refitted")
    parser.add_argument("--kept", type=float, nargs="+", default=[0.7, 0.5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    masks, splits = load(options.models, options.data)
    read = (splits.validation, splits.test)
    original = {split.name: predict(masks.model, split, 32) for split in read}
    print("original", *judged(masks, read, original), sep="; ", flush=True)
    with masks:
        started = time.perf_counter()
        menu = menu_now(masks, LowRank(flops_kept=options.kept[0]))
        spectra = find_spectra(masks, splits.calibration, menu)
        print(f"spectra of {len(spectra)} linears: {time.perf_counter() - started:.0f} s", flush=True)
        for kept in options.kept:
            masks.spectra, started = spectra, time.perf_counter()
            plan = chosen(masks, splits.calibration, kept)
            print(f"{kept:g} kept: {len(plan)} linears chosen in {time.perf_counter() - started:.0f} s", flush=True)
            for edit in plan:
                print(" ", edit.component, edit.reason)
            for name, known in (("along inputs", spectra), ("plain", {})):
                masks.spectra = dict(known)
                masks.factorize({edit.component: masks.factors_of(edit.component, edit.into) for edit in plan})
                left = 1 - masks.saved[1] / masks.anatomy.flops
                print(f"{kept:g}, {name} ({left:.3f})", *judged(masks, read, original), sep="; ", flush=True)
                if options.refitted:
                    Compensator(masks, splits.calibration, Compensation()).refit()
                    print(f"{kept:g}, {name}, refitted", *judged(masks, read, original), sep="; ", flush=True)
                masks.refit({}, {})


if __name__ == "__main__":
    main()
