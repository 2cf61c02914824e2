"""Whom does compression cost? HateCheck's target groups, on a classifier that is fine-tuned and compressed here.

    python benchmarks/bench_hatecheck.py --encoder FOLDER --data FOLDER --out FOLDER

``--encoder`` is a folder with a text encoder, ``--data`` has train.csv, dev.csv, test.csv and hatecheck.csv. The classifier is trained once
(some minutes on one thread), compressed without being told of any group, and judged on HateCheck, which nothing before has read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
from figures import Row, markdown
from finetuned import Schooling

from compress_explain import DataSpec, Gate, Reinstatement, Run, SliceRule, compress, load_subject
from compress_explain.comparison.gates import EVERY
from compress_explain.data.encoding import Reading
from compress_explain.data.loading import load_test
from compress_explain.data.sources import read_rows
from compress_explain.evaluating import Evaluated, Evaluation, evaluate, open_model
from compress_explain.model.loading import quieten
from compress_explain.plugins.catalog import EVALUATORS, STRATEGIES
from compress_explain.plugins.evaluator import DEFAULT
from compress_explain.pricing import AuditPlan
from compress_explain.progress import Progress

SCHOOLING = Schooling(epochs=2, batch=32, rate=8e-5, max_length=64)
FLOPS_KEPT = 0.4
RULES = (
    SliceRule(name="target", column="target"),
    SliceRule(name="direction", column="direction"),
    SliceRule(name="functionality", column="functionality"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("encoder", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--flops-kept", type=float, default=FLOPS_KEPT)
    given = parser.parse_args()
    quieten()
    rows = read_rows("data", str(given.data / "train.csv"))
    started = time.perf_counter()
    model = SCHOOLING.model(
        given.encoder, rows["text"].tolist(), rows["label"].tolist(), ("not-hate", "hate"), given.out / "model"
    )
    trained = time.perf_counter() - started
    run = _compressed(model, given.data, given.out / f"run-{given.flops_kept:g}", given.flops_kept)
    found = _judged(model, run, given.data, given.out / f"hatecheck-{given.flops_kept:g}")
    _show(found, run, trained)


def _compressed(model: Path, data: Path, out: Path, flops_kept: float) -> Run:
    if (out / "run.json").exists():
        return Run(out)
    spec = DataSpec(
        calibration=str(data / "train.csv"), validation=str(data / "dev.csv"), test=str(data / "test.csv"),
        calibration_rows=1024, max_length=64, overlap="drop",
    )  # fmt: skip
    return compress(
        load_subject(str(model), "text-classification"), spec,
        strategies=[STRATEGIES.build("structured", {"flops_kept": flops_kept})], evaluators=[EVALUATORS.build("quality", {})],
        gates=[Gate(metric="accuracy", max_drop=0.05, rule="point")], reinstatement=Reinstatement(max_rounds=0),
        audit=AuditPlan(heads=0, neurons=0), out=out, progress=Progress(),
    )  # fmt: skip


def _judged(model: Path, run: Run, data: Path, out: Path) -> Evaluated:
    if (out / "evaluation.json").exists():
        return Evaluated(out)
    original = open_model(str(model))
    reading = Reading(input="text", label="label", max_length=64, long_text="truncate")
    evaluation = Evaluation(
        original=original, candidate=open_model(str(run.folder / "artifact"), like=original),
        test=load_test(str(data / "hatecheck.csv"), RULES, original.subject, reading),
        evaluators=[EVALUATORS.build(name, {}) for name in DEFAULT],
        gates=[Gate(metric="accuracy", max_drop=0.03), Gate(metric="accuracy", slice=EVERY, max_drop=0.1, on_inconclusive="warn")],
        redact=True,
    )  # fmt: skip
    return evaluate(evaluation, out, Progress())


def _show(found: Evaluated, run: Run, trained: float) -> None:
    scores = found.scores
    print(
        f"fine-tuned in {trained:.0f} s; {run.summary['flops']['compressed'] / run.summary['flops']['original']:.0%} of the FLOPs kept"
    )
    for prefix in ("all", "target=", "functionality="):
        chosen = scores[(scores["metric"] == "accuracy") & scores["slice"].str.startswith(prefix)]
        print(markdown([_row(row) for _, row in chosen.sort_values("difference").iterrows()]))
    groups = scores[(scores["metric"] == "accuracy") & scores["slice"].str.startswith("target=")]
    worst = groups.loc[groups["difference"].idxmin()]
    print(
        f"hurt most: {worst['slice']}, {100 * worst['difference']:+.2f} points "
        f"({100 * worst['low']:+.2f} to {100 * worst['high']:+.2f} at {worst['confidence']:.0%}), n = {worst['n']}"
    )


def _row(row: pd.Series) -> Row:
    return {
        "slice": row["slice"], "n": int(row["n"]), "original": f"{row['original']:.4f}", "compressed": f"{row['compressed']:.4f}",
        "points": f"{100 * row['difference']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})",
    }  # fmt: skip


if __name__ == "__main__":
    main()
