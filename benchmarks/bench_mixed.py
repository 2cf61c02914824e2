"""Mixed precision by price against NNCF's accuracy control, on a model that plain int8 ruins.

    python benchmarks/bench_mixed.py --models MODELS --data DATA --folder OUT --nncf PYTHON

``minilm-sst2`` is given outliers that leave what it computes as it was (outliers.py). Both start from the
same float32 ONNX file, 300 calibration rows from train and the 872 rows of dev, and are to lose at most one point
of accuracy there. Counted is how often the whole of dev is run, and how many linears end up in float32. NNCF
runs in its own environment (``pip install nncf onnx onnxruntime``), given by its interpreter; without it
only our side is run. ``--to`` is what mixed precision starts from, ``--loss`` the KL that it may cost.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from outliers import with_outliers

from compress_explain import Gate, Reinstatement, compress
from compress_explain.comparison.predictions import Pairs, predict
from compress_explain.data.examples import Examples
from compress_explain.data.loading import DataSpec, Splits, load_splits
from compress_explain.deployment import export_onnx
from compress_explain.evaluators import Quality
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import Subject, load_subject
from compress_explain.pricing import AuditPlan
from compress_explain.strategies import Int8Dynamic, MixedPrecision

SCALED, CONSTANT = (0, 2, 4), (1, 2, 3, 4)
MAX_DROP = 0.01
NNCF_FORMS = ("transformer", "plain")


def prepare(models: Path, data: Path, folder: Path, ranking_rows: int) -> tuple[Subject, Splits]:
    """The model with outliers, its rows, and both in the forms that NNCF takes, in ``folder``."""
    original = load_subject(str(models / "minilm-sst2"), "text-classification")
    changed = with_outliers(original.model, scaled=SCALED, constant=CONSTANT)
    changed.save_pretrained(folder / "model")
    original.processor.save_pretrained(folder / "model")
    subject = load_subject(str(folder / "model"), "text-classification")
    spec = DataSpec(
        calibration=str(data / "sst2" / "train_sentences.csv"), validation=str(data / "sst2" / "dev.csv"),
        test=str(data / "sst2" / "test.csv[:200]"), calibration_rows=300, max_length=64, overlap="drop",
    )  # fmt: skip
    splits = load_splits(spec, [], subject, 0)
    before, after = (
        right(predict(model, splits.validation, 32), splits.validation) for model in (original.model, changed)
    )
    export_onnx(subject.model, splits.calibration, folder / "model.onnx", anatomy=read_anatomy(subject.model, 64))
    np.savez(folder / "rows.npz", **{k: v for part in splits for k, v in padded(part)})
    facts = {"max_drop": MAX_DROP, "ranking_rows": ranking_rows, "accuracy": before, "accuracy with outliers": after}
    (folder / "job.json").write_text(json.dumps(facts))
    return subject, splits


def padded(examples: Examples) -> Iterator[tuple[str, np.ndarray]]:
    """Every input of a split as one table, with the length of each row."""
    width = int(examples.lengths.max())
    for name, values in examples.inputs.items():
        yield f"{examples.name}/{name}", np.stack([np.pad(row, (0, width - len(row))) for row in values])
    yield f"{examples.name}:lengths", examples.lengths
    yield f"{examples.name}:labels", examples.labels


def right(logits: np.ndarray, examples: Examples) -> float:
    return float((logits.argmax(1) == examples.labels).mean())


def ours(subject: Subject, splits: Splits, strategy: Any, out: Path) -> dict[str, Any]:
    """A whole run; what it ran on dev, and what it deployed."""
    started = time.perf_counter()
    run = compress(
        subject, splits, strategies=[strategy], evaluators=[Quality()],
        gates=[Gate(metric="accuracy", max_drop=MAX_DROP, rule="point")], compensation=None,
        reinstatement=Reinstatement(reserve=0.0), audit=AuditPlan(heads=0, neurons=0), out=out,
    )  # fmt: skip
    evaluations = [
        record.step for record in run.ledger.of_kind("predicted") if record.body["split"] == splits.validation.name
    ]
    deployed = out / "predictions" / f"deployed-{splits.validation.name}.parquet"
    result = {
        "full": len(evaluations),
        "evaluations": evaluations,
        "planned": len(run.ledger.of_kind("planned")),
        "state": run.summary["state"],
        "seconds": time.perf_counter() - started,
    }
    if deployed.exists():
        pairs, linears = Pairs.load(deployed), run.summary["deployed"]["linears"]
        result |= {
            "accuracy": right(pairs.compressed, splits.validation),
            "original": right(pairs.original, splits.validation),
            "linears": linears,
            "float": linears.get("float32", 0),
            "agreement": run.summary["deployed"]["beside_masked"]["agreement"],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for what is made and found")
    parser.add_argument("--nncf", type=Path, help="the Python interpreter of an environment with nncf")
    parser.add_argument("--forms", default=",".join(NNCF_FORMS), help="NNCF's model type: transformer, plain")
    parser.add_argument("--ranking-rows", type=int, default=300, help="that NNCF ranks on; 300 unless told otherwise")
    parser.add_argument("--to", default="int8_dynamic", help="in YAML")
    parser.add_argument("--loss", type=float, default=0.02, help="nats of KL that may be expected")
    parser.add_argument(
        "--plain", action="store_true", help="also int8_dynamic of everything, repaired by reinstatement alone"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    subject, splits = prepare(options.models, options.data, options.folder, options.ranking_rows)
    results = {}
    strategies = {"mixed": MixedPrecision(to=yaml.safe_load(options.to), loss=options.loss)}
    strategies |= {"plain": Int8Dynamic()} if options.plain else {}
    for name, strategy in strategies.items():
        results[name] = ours(subject, splits, strategy, options.folder / f"run-{name}-{time.time_ns()}")
        print(name, json.dumps(results[name]), flush=True)
    if options.nncf:
        script = Path(__file__).with_name("nncf_control.py")
        for form in options.forms.split(","):
            subprocess.run([options.nncf, script, options.folder, form], check=True)
            print(f"nncf, {form}", (options.folder / f"nncf-{form}.json").read_text(), flush=True)
    (options.folder / "ours.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
