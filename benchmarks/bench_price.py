"""How good, how dear and how honest a price is, beside exact leave-one-out and beside what others rank by.

    python benchmarks/bench_price.py --models MODELS --data DATA --cache CACHE --out results.json

MODELS holds minilm-sst2 and minilm-agnews, DATA the folders sst2, agnews and trec; what is trained
here goes into CACHE. Everything is measured in one run, on the same rows. Parts:

cost      pricing, auditing and others' scores in evaluations of the model on the same rows
quality   rank correlation with the exact loss change, ours and others', on every slice
joint     the expected effect of whole plans against the observed one
classes   50 classes: the likeliest ones and the rest against random projections (case trec)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from figures import Report, Row, begin
from options import names
from price_classes import classes
from price_cost import cost
from price_edits import calibration, linears, wholes
from price_exact import naive, reuse
from price_joint import joint
from price_quality import audited, margins, rankings, removals
from subjects import CASES, Case, Places

from compress_explain.comparison.predictions import predict
from compress_explain.data.examples import ALL

PARTS = ("cost", "quality", "joint", "classes")


def main() -> None:
    options = _options()
    report = begin(options.out, options.threads)
    places = Places(models=options.models, data=options.data, cache=options.cache)
    for name in options.cases:
        case = CASES[name](places, options.rows)
        print(f"\n## {name}: {_described(case)}", flush=True)
        for part in options.parts:
            _PARTS[part](case, report, options)
    if "quality" in options.parts:
        _summary(report)


def _described(case: Case) -> str:
    """How many rows, and how good the model is on them."""
    if case.tokenwise:
        return f"{len(case.examples):,} rows, {case.examples.counts[ALL]:,} predicted tokens"
    right = predict(case.model, case.examples).argmax(1) == case.examples.labels
    return f"{len(right):,} rows, {case.classes} classes, accuracy {right.mean():.3f}"


def _cost(case: Case, report: Report, options: argparse.Namespace) -> None:
    report.add("Cost, in evaluations of the same rows", cost(case, options.repeats))
    report.add("Cost of leaving each component out", naive(case, options.repeats))
    report.add("Cost of an audit", reuse(case, options.repeats))


_SIGNED = "Spearman with the exact loss change"
_SIZE = "Spearman of sizes, with the size of the exact loss change"


def _quality(case: Case, report: Report, options: argparse.Namespace) -> None:
    result = audited(case, options.neurons)
    signed, sizes = removals(case, result, rankings(case))
    report.add(_SIGNED, signed)
    report.add(_SIZE, sizes)
    report.add("Spearman for the weights of all linears", linears(case, result))
    report.add("Sublayers and layers", wholes(case, result))
    report.add("Calibration of the expected loss change, all examples", calibration(case, result))


def _joint(case: Case, report: Report, options: argparse.Namespace) -> None:
    if case.calibration is not None:
        report.add("Whole plans, expected and observed", joint(case))


def _classes(case: Case, report: Report, options: argparse.Namespace) -> None:
    if not case.tokenwise and case.classes > 16:
        costs, qualities = classes(case, options.neurons, options.repeats)
        report.add("Many classes: cost", costs)
        report.add("Many classes: Spearman with the exact loss change", qualities)


_PARTS = {"cost": _cost, "quality": _quality, "joint": _joint, "classes": _classes}


def _summary(report: Report) -> None:
    rows: list[Row] = margins(report.tables.get(_SIGNED, []), "loss change")
    rows += margins(report.tables.get(_SIZE, []), "its size")
    report.add("By how much ours beats the others, over all cases and slices", rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--cases", type=names(CASES), default=["sst2", "agnews", "digits", "docstrings"])
    parser.add_argument("--parts", type=names(PARTS), default=["cost", "quality", "joint"])
    parser.add_argument("--neurons", type=int, default=100, help="how many are left out one by one")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing; medians are told")
    parser.add_argument("--rows", type=int, help="rows of each case, for a quick look")
    parser.add_argument("--threads", type=int, help="of this process (default: as torch finds them)")
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
