"""Quantized files of a text classifier, ours beside what else there is: accuracy, bytes, milliseconds.

    python benchmarks/bench_quantizers.py --models MODELS --data DATA

The original of ``minilm-sst2`` is quantized and nothing else. All see the same training rows, where they look at any; accuracy is
on dev and test, on which nothing was chosen. Ways that compute in 8 bits are set beside our ``int8_dynamic``, those
that only store 4 bits beside our GPTQ, on the same rows. A peer that is not installed or does not run is said to.

int8_dynamic       ours: a scale a channel and a token batch, embeddings in 8 bits
int8_static        ours: smoothed by half, ranges from the rows
gptq 4 bit         ours: blocks of 32, embeddings in 8 bits
rtn 4 bit          ours, to the nearest
ORT dynamic        onnxruntime.quantization.quantize_dynamic as it comes
ORT static         onnxruntime.quantization.quantize_static as it comes (QDQ, extremes)
quanto int8        optimum-quanto, weights and activations
quanto int4        optimum-quanto, weights
torchao int8       torchao, Int8DynamicActivationInt8WeightConfig
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from figures import Row, begin
from judged import judged, ours_better
from onnxruntime.quantization import quantize_dynamic, quantize_static
from options import names
from subjects import columns, texts
from transformers import PreTrainedModel

from compress_explain.choosing.activations import Ranges, find_activations
from compress_explain.comparison.predictions import Pairs, pair
from compress_explain.data.examples import Examples
from compress_explain.deployment import (
    Int8Dynamic,
    Int8Static,
    OnnxRunner,
    Runner,
    Scheme,
    TorchRunner,
    WeightOnly,
    export_onnx,
    measure,
    run_examples,
    text_inputs,
)
from compress_explain.deployment.rows import Rows
from compress_explain.editing.masks import Masks
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Given:
    """What every way starts from: the model, its float32 file, and rows to look at."""

    model: PreTrainedModel = field(repr=False)
    file: Path
    training: Examples
    folder: Path
    threads: int

    def run(self, path: Path) -> Made:
        return Made(OnnxRunner(path=path, threads=self.threads), path.stat().st_size)

    def torch(self, model: PreTrainedModel) -> Made:
        return Made(TorchRunner(model=model, threads=self.threads))


@dataclass(frozen=True)
class Made:
    """What runs, and the bytes of its file where it is one."""

    runner: Runner = field(repr=False)
    bytes: int | None = None


def _scheme(scheme: Scheme) -> Callable[[Given], Made]:
    def make(given: Given) -> Made:
        target = given.folder / "quantized.onnx"
        scheme.quantize(given.file, target, calibration=given.training)
        return given.run(target)

    return make


def _static(given: Given) -> Made:
    with Masks(given.model, read_anatomy(given.model, 64)) as masks:
        found = find_activations(masks, given.training, Ranges(method="minmax", smooth=0.5))
    return _scheme(Int8Static(embeddings=8, found=found))(given)


def _ort_dynamic(given: Given) -> Made:
    target = given.folder / "dynamic.onnx"
    quantize_dynamic(given.file, target)
    return given.run(target)


def _ort_static(given: Given) -> Made:
    target = given.folder / "static.onnx"
    inputs = list(OnnxRunner(path=given.file).inputs)
    quantize_static(given.file, target, Rows(given.training, inputs))
    return given.run(target)


def _quanto(weights: str, activations: str | None) -> Callable[[Given], Made]:
    def make(given: Given) -> Made:
        from optimum import quanto

        model = copy.deepcopy(given.model)
        kinds = {"weights": getattr(quanto, weights)}
        kinds |= {} if activations is None else {"activations": getattr(quanto, activations)}
        quanto.quantize(model, **kinds)
        with torch.no_grad(), quanto.Calibration():
            for batch in given.training.batches(BATCH) if activations else ():
                model(**batch.inputs)
        quanto.freeze(model)
        return given.torch(model)

    return make


def _torchao(given: Given) -> Made:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(given.model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return given.torch(model)


@dataclass(frozen=True)
class Way:
    """One way to quantize, and the way of ours that it is set beside."""

    make: Callable[[Given], Made] = field(repr=False)
    beside: str = "int8_dynamic"


WAYS = {
    "int8_dynamic": Way(_scheme(Int8Dynamic(embeddings=8))),
    "gptq 4 bit": Way(_scheme(WeightOnly(bits=4, method="gptq", embeddings=8)), "gptq 4 bit"),
    "int8_static": Way(_static),
    "rtn 4 bit": Way(_scheme(WeightOnly(bits=4, embeddings=8)), "gptq 4 bit"),
    "ORT dynamic": Way(_ort_dynamic),
    "ORT static": Way(_ort_static),
    "quanto int8": Way(_quanto("qint8", "qint8")),
    "quanto int4": Way(_quanto("qint4", None), "gptq 4 bit"),
    "torchao int8": Way(_torchao),
}


def main() -> None:
    options = _options()
    report = begin(options.out, options.threads)
    subject = load_subject(str(options.models / "minilm-sst2"), "text-classification")
    rows = {
        split: texts(options.data / "sst2" / f"{split}.csv", columns("label", "negation", "contrast", "len_bin"), subject, None, max_length=64)
        for split in ("dev", "test")
    }  # fmt: skip
    training = texts(options.data / "sst2" / "train_sentences.csv", (), subject, options.rows, max_length=64)
    eager = TorchRunner(model=subject.model, threads=options.threads)
    originals = {split: run_examples(eager, examples, BATCH) for split, examples in rows.items()}
    ours: dict[tuple[str, str], np.ndarray] = {}
    with TemporaryDirectory() as name:
        file = Path(name) / "model.onnx"
        export_onnx(subject.model, training, file, anatomy=read_anatomy(subject.model, 64))
        given = Given(model=subject.model, file=file, training=training, folder=Path(name), threads=options.threads)
        report.add("Original", [{"form": "ONNX float32", **_cost(given.run(file), eager)}])
        for title in sorted(options.ways, key=list(WAYS).index):
            report.add("Quantized", list(_told(title, given, rows, originals, ours, eager)))


def _told(
    title: str,
    given: Given,
    rows: dict[str, Examples],
    originals: dict[str, np.ndarray],
    ours: dict[tuple[str, str], np.ndarray],
    eager: Runner,
) -> Iterator[Row]:
    """One row a split, or why there is none."""
    way = WAYS[title]
    try:
        made = way.make(given)
        logits = {split: run_examples(made.runner, examples, BATCH) for split, examples in rows.items()}
    except Exception as error:  # a peer's, of any kind
        print(f"{title}: not run: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
        return
    cost = _cost(made, eager)
    for split, examples in rows.items():
        ours[title, split] = logits[split]
        mine = ours.get((way.beside, split)) if way.beside != title else None
        beside: Pairs | None = None if mine is None else pair(examples, logits[split], mine)
        row = {"way": title, "split": split, **judged(pair(examples, originals[split], logits[split]))}
        yield {**row, **ours_better(beside), "beside": "" if mine is None else way.beside, **cost}


def _cost(made: Made, eager: Runner) -> Row:
    """Bytes, and how many times as fast as torch in float32, by medians of calls in turn."""
    row: Row = {"bytes": made.bytes}
    for batch in (1, 16):
        inputs = text_inputs(batch, 128, vocabulary=1000)
        taken = measure({"eager": eager, "made": made.runner}, inputs, rounds=max(7, 20 // batch), warm_up=2)
        row[f"ms, {batch} × 128"] = taken["made"].median
        row[f"times as fast, {batch} × 128"] = f"{taken['made'].times_faster(taken['eager']):.2f}"
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ways", type=names(tuple(WAYS)), default=list(WAYS))
    parser.add_argument("--rows", type=int, default=512, help="training rows to calibrate on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
