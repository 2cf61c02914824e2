"""How long a text classifier takes for one batch: the original in every form, and a compressed one.

    python benchmarks/bench_latency.py --model minilm-sst2 --data sst2/dev.csv --compressed RUN_DIR/artifact

MODEL is a fine-tuned text classifier, DATA rows for it: the export is checked on them, and accuracy
is of the first --rows. All forms of one table are measured in turn, round after round, on as many
threads as are given.

torch               the model as transformers runs it
torch compiled      torch.compile, or with --packages ahead of time into a package
ONNX                ONNX Runtime in float32
ONNX int8           weights and activations in 8 bits, scales found while running
ONNX int8, plain    the same with every graph optimisation of ONNX Runtime on, as it comes

The roofline is the time of the linears' multiply-adds alone, at the rate that this machine's matrix
products reach in the table above it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from figures import Row, begin
from transformers import AutoTokenizer, PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.data.loading import load_examples
from compress_explain.deployment import (
    CompiledRunner,
    Int8Dynamic,
    Latency,
    OnnxRunner,
    Rates,
    Runner,
    TorchRunner,
    check,
    compile_package,
    export_onnx,
    measure,
    measure_rates,
    run_examples,
    text_inputs,
)
from compress_explain.model.anatomy import read_anatomy
from compress_explain.model.loading import load_subject
from compress_explain.record.checkpoint import load_compressed
from compress_explain.vocabulary import read_by

TASK = "text-classification"
FORMAT = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8", "int8, plain": "int8"}


@dataclass(frozen=True)
class Measured:
    """One model and the rows as its tokenizer cuts them."""

    model: PreTrainedModel = field(repr=False)
    examples: Examples


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to run one model, and the file that it is run from where there is one."""

    model: str
    runtime: str
    format: str
    runner: Runner = field(repr=False)
    file: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.model}, {self.runtime} {self.format}"


@dataclass(frozen=True)
class Plain:
    """An ONNX file as ONNX Runtime runs it when nothing but the threads is said."""

    path: Path
    threads: int

    def __post_init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        object.__setattr__(self, "_session", session)

    def __call__(self, inputs: dict[str, torch.Tensor]) -> np.ndarray:
        session: onnxruntime.InferenceSession = self._session  # type: ignore[attr-defined]
        return session.run(None, {each.name: inputs[each.name].numpy() for each in session.get_inputs()})[0]


def main() -> None:
    options = _options()
    torch._dynamo.config.recompile_limit = 64  # counted over all models together
    about = {"onnxruntime": onnxruntime.__version__, "processor": torch.cpu.get_capabilities()["cpu_name"]}
    report = begin(options.out, options.threads, about)
    subject = load_subject(options.model, TASK)
    examples = load_examples(options.data, [], subject, rows=options.rows, max_length=options.max_length)
    subjects = {"original": Measured(subject.model, examples)}
    if options.compressed:
        own = AutoTokenizer.from_pretrained(options.compressed)  # after `vocabulary` it cuts texts otherwise
        subjects["compressed"] = Measured(load_compressed(options.compressed), read_by(examples, own))
    rates = measure_rates(threads=options.threads)
    report.add("Rates", [_rates(rates)])
    with TemporaryDirectory() as folder:
        forms = [form for name, each in subjects.items() for form in _forms(name, each, Path(folder), options)]
        report.add("Forms", [_described(form, subjects[form.model].examples) for form in forms])
        for batch in options.batches:
            for tokens in options.tokens:
                report.add("Latency", list(_latencies(forms, subjects, rates, batch, tokens, options.rounds)))


def _forms(name: str, measured: Measured, folder: Path, options: argparse.Namespace) -> Iterator[Form]:
    model, examples, threads = measured.model, measured.examples, options.threads
    for dtype in ("float32", "bfloat16"):
        eager = TorchRunner(model=model, dtype=dtype, threads=threads)
        yield Form(model=name, runtime="torch", format=dtype, runner=eager)
        if options.packages:
            package = compile_package(model, examples, folder / f"{name}-{dtype}.pt2", dtype=dtype)
            compiled: Runner = CompiledRunner(path=package, dtype=dtype, threads=threads)
            yield Form(model=name, runtime="torch compiled", format=dtype, runner=compiled, file=package)
        else:
            compiled = TorchRunner(model=model, dtype=dtype, compiled=True, threads=threads)
            yield Form(model=name, runtime="torch compiled", format=dtype, runner=compiled)
    plain, int8 = folder / f"{name}.onnx", folder / f"{name}-int8.onnx"
    export_onnx(model, examples, plain)
    check(plain, model, examples)
    Int8Dynamic(embeddings=options.embeddings).quantize(plain, int8)
    yield Form(model=name, runtime="ONNX", format="float32", runner=OnnxRunner(path=plain, threads=threads), file=plain)
    yield Form(model=name, runtime="ONNX", format="int8", runner=OnnxRunner(path=int8, threads=threads), file=int8)
    yield Form(model=name, runtime="ONNX", format="int8, plain", runner=Plain(int8, threads), file=int8)


def _described(form: Form, examples: Examples) -> Row:
    right = run_examples(form.runner, examples, 16).argmax(1) == examples.labels
    size = form.file.stat().st_size if form.file else None
    return {"form": form.name, "bytes": size, "rows": len(examples), "accuracy": f"{right.mean():.4f}"}


def _latencies(
    forms: list[Form], subjects: dict[str, Measured], rates: Rates, batch: int, tokens: int, rounds: int
) -> Iterator[Row]:
    inputs = text_inputs(batch, tokens, vocabulary=min(each.model.config.vocab_size for each in subjects.values()))
    taken = measure({form.name: form.runner for form in forms}, inputs, rounds=max(5, rounds // batch))
    anatomies = {name: read_anatomy(each.model, tokens) for name, each in subjects.items()}
    best = _best(forms, taken)
    for form in forms:
        latency, (low, high) = taken[form.name], taken[form.name].interval
        yield {
            "batch × tokens": f"{batch} × {tokens}",
            "form": form.name,
            "ms": latency.median,
            "95%": f"{low:.2f} to {high:.2f}",
            "fastest": latency.fastest,
            "roofline": rates.milliseconds(anatomies[form.model], batch)[FORMAT[form.format]],
            "against the best original": f"{latency.times_faster(best):.2f} ×",
        }


def _best(forms: list[Form], taken: dict[str, Latency]) -> Latency:
    """The fastest form of the original as its runtimes come: what a compressed model has to beat."""
    ordinary = [form.name for form in forms if form.model == "original" and form.format != "int8"]
    return min((taken[name] for name in ordinary), key=lambda latency: latency.median)


def _rates(rates: Rates) -> Row:
    return {
        "float32, GMAC/s": rates.float32 / 1e9,
        "bfloat16, GMAC/s": rates.bfloat16 / 1e9,
        "int8, GMAC/s": rates.int8 / 1e9,
    }


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or hub id")
    parser.add_argument("--data", required=True, help="rows to check the export on and to tell accuracy of")
    parser.add_argument("--compressed", type=Path, help="a folder that holds a compressed checkpoint")
    parser.add_argument("--batches", type=_numbers, default=[1, 16])
    parser.add_argument("--tokens", type=_numbers, default=[32, 128])
    parser.add_argument("--rounds", type=int, default=40, help="of batch 1; larger batches get fewer")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--embeddings", type=int, choices=(32, 8, 4), default=8, help="bits, of the int8 files")
    parser.add_argument("--packages", action="store_true", help="compile ahead of time rather than by torch.compile")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for all tables")
    return parser.parse_args()


if __name__ == "__main__":
    main()
