"""NNCF's quantize_with_accuracy_control on an ONNX file: run by bench_mixed.py, in an environment of its own.

Needs nncf, onnx and onnxruntime, and nothing of this project: it reads model.onnx, rows.npz and job.json
from a folder, and writes NAME.json and NAME.onnx there. Every call of the validation function is counted,
with the rows that it was given.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
from nncf.parameters import DropType, ModelType
from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters

Row = tuple[dict[str, np.ndarray], int]


def rows_of(tables: dict[str, np.ndarray], name: str) -> list[Row]:
    """Rows without padding, and their labels."""
    inputs = [key.partition("/")[2] for key in tables if key.startswith(f"{name}/")]
    lengths, labels = tables[f"{name}:lengths"], tables[f"{name}:labels"]
    return [
        ({key: tables[f"{name}/{key}"][row : row + 1, :length] for key in inputs}, int(labels[row]))
        for row, length in enumerate(lengths)
    ]


class Validation:
    """The metric, and how often it was asked for on how many rows."""

    def __init__(self) -> None:
        self.calls: list[dict[str, float]] = []

    def __call__(self, model: Any, rows: Iterable[Row]) -> tuple[float, list[float]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        right = [float(session.run(None, inputs)[0].argmax() == label) for inputs, label in rows]
        accuracy = sum(right) / len(right)
        self.calls.append({"rows": len(right), "accuracy": accuracy})
        print(f"validated {len(right)} rows: {accuracy:.4f}", flush=True)
        return accuracy, right


def linears(model: onnx.ModelProto) -> Iterator[tuple[str, bool]]:
    """Every product with a weight, and whether it is computed on quantized numbers."""
    makers = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}

    def constant(name: str) -> bool:
        """A weight, or one that passes a pair of quantize and dequantize nodes."""
        made = makers.get(name)
        return name in constants or (made is not None and all(constant(each) for each in made.input))

    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and constant(node.input[1]):
            made = [makers.get(each) for each in node.input[:2]]
            yield node.name, all(each is not None and each.op_type == "DequantizeLinear" for each in made)


def main(folder: Path, name: str) -> None:
    job = json.loads((folder / "job.json").read_text())
    tables = dict(np.load(folder / "rows.npz"))
    validation, started = Validation(), time.perf_counter()
    model = onnx.load(folder / "model.onnx")
    quantized = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(rows_of(tables, "calibration"), lambda row: row[0]),
        validation_dataset=nncf.Dataset(rows_of(tables, "validation"), lambda row: row[0]),
        validation_fn=validation,
        max_drop=job["max_drop"],
        drop_type=DropType.ABSOLUTE,
        subset_size=len(tables["calibration:labels"]),
        model_type=ModelType.TRANSFORMER if name == "transformer" else None,
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            num_ranking_workers=1, ranking_subset_size=job["ranking_rows"]
        ),
    )
    onnx.save(quantized, folder / f"nncf-{name}.onnx")
    whole = len(tables["validation:labels"])
    states = dict(linears(quantized))
    result = {
        "version": nncf.__version__,
        "full": sum(call["rows"] == whole for call in validation.calls),
        "partial": sum(call["rows"] != whole for call in validation.calls),
        "partial_rows": sum(call["rows"] for call in validation.calls if call["rows"] != whole),
        "accuracies": [call["accuracy"] for call in validation.calls if call["rows"] == whole],
        "linears": len(states),
        "float": sorted(node for node, is_quantized in states.items() if not is_quantized),
        "seconds": time.perf_counter() - started,
    }
    (folder / f"nncf-{name}.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
