"""A model as an ONNX file, and the proof that the file computes what the model computes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.deployment.names import name_embeddings, name_linears
from compress_explain.deployment.runtime import OnnxRunner, Runner
from compress_explain.errors import ArtifactError, InputError
from compress_explain.model.anatomy import Anatomy, read_anatomy
from compress_explain.model.factored import FactoredLinear
from compress_explain.model.heads import logits_in, outputs_of
from compress_explain.record.ledger import file_digest
from compress_explain.weight_edits import FIRST_AND_SECOND

OPSET = 21
TOLERANCE = 1e-4  # of a logit, float32
SINGLE_FILE = 2_000_000_000  # bytes of weights: what one protobuf message can hold, and room for the graph
_TALKATIVE = ("torch.onnx", "onnx_ir", "onnxscript")
_DYNAMIC = {
    "input_ids": {0: "batch", 1: "tokens"},
    "attention_mask": {0: "batch", 1: "tokens"},
    "token_type_ids": {0: "batch", 1: "tokens"},
    "pixel_values": {0: "batch"},
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file: its inputs in order, its named linears, its bytes with those of any external data, its SHA-256."""

    path: Path
    inputs: tuple[str, ...]
    linears: tuple[str, ...]
    opset: int
    bytes: int
    digest: str


def export_onnx(
    model: PreTrainedModel,
    examples: Examples,
    path: Path,
    *,
    anatomy: Anatomy | None = None,
    opset: int = OPSET,
    single_file: int = SINGLE_FILE,
) -> Exported:
    """Write ``model`` to ``path`` for batches of any size and, of texts, any number of tokens.

    Inputs are called as the model's arguments, the output ``logits``, or ``start_logits`` and ``end_logits``, or ``last_hidden_state`` of a model without a head; the linears of ``anatomy``, that
    of the model before anything was removed, are called by component
    (:mod:`compress_explain.deployment.names`), those that are left. A language model's logits are
    those of every position, computed without a cache. Weights of more than ``single_file`` bytes go
    to ``<name>.data`` beside the file. Equal models give equal files.

    Raises:
        InputError: the weights are not float32, the model is an encoder-decoder that generates, or ``examples`` have an input of no known shape.
        ArtifactError: the exporter cannot express the model, or a linear is not found in the graph.
    """
    _refuse_others(model)
    inputs = sample(examples)
    outputs = outputs_of(type(model).__name__)
    try:
        with ready(model, attention="eager"):
            exported = torch.onnx.export(
                model,
                (),
                kwargs=inputs,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes={name: _DYNAMIC[name] for name in inputs},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise ArtifactError(
            f"{type(model).__name__}: cannot be exported to ONNX ({cause}). Remedy: deploy it as a compiled artifact"
        ) from error
    assert exported is not None, "the dynamo exporter returns the program"
    document = exported.model_proto
    del document.graph.output[len(outputs) :]  # an encoder's states, say
    linears = linears_left(model, anatomy or read_anatomy(model, tokens=1))
    name_linears(document, linears)
    name_embeddings(document)
    tidy(document)
    size = save(document, path, single_file)
    return Exported(
        path=path,
        inputs=tuple(inputs),
        linears=tuple(linears),
        opset=opset,
        bytes=size,
        digest=file_digest(path),
    )


def linears_left(model: PreTrainedModel, anatomy: Anatomy) -> dict[str, str]:
    """The module of each linear that still computes something; of one that is factored, those of its two parts."""
    modules = dict(model.named_modules())
    named = dict[str, str]()
    for name, linear in anatomy.linears.items():
        two = isinstance(modules.get(linear.module), FactoredLinear)
        parts = FIRST_AND_SECOND if two else ("",) if linear.module in modules else ()
        named |= {name + part: linear.module + part for part in parts}
    weights = {name: getattr(modules[module], "weight", None) for name, module in named.items()}
    return {name: named[name] for name, weight in weights.items() if weight is not None and weight.numel()}


def check(
    path: Path,
    model: PreTrainedModel,
    examples: Examples,
    *,
    rows: int = 64,
    batch_size: int = 16,
    tolerance: float = TOLERANCE,
) -> float:
    """The largest difference between the file's logits and the model's, on ``rows`` of ``examples``, batched and padded.

    Logits larger than 1 may differ by that share of the largest.

    Raises:
        ArtifactError: they differ by more than ``tolerance``, or the file gives no numbers.
    """
    return check_runner(
        OnnxRunner(path=path), str(path), model, examples, rows=rows, batch_size=batch_size, tolerance=tolerance
    )


def check_runner(
    runner: Runner,
    name: str,
    model: PreTrainedModel,
    examples: Examples,
    *,
    rows: int = 64,
    batch_size: int = 16,
    tolerance: float = TOLERANCE,
) -> float:
    """:func:`check` for whatever runs the file called ``name``."""
    worst, largest = furthest(runner, model, examples.draw(rows, seed=0), batch_size)
    allowed = tolerance * max(1.0, largest)
    if not worst <= allowed:
        raise ArtifactError(
            f"{name}: its logits differ from the model's by up to {worst:.2g}, where {allowed:.2g} is rounding. Remedy: "
            "export the model that is deployed, in evaluation mode; or deploy it in another form"
        )
    return worst


def furthest(runner: Runner, model: PreTrainedModel, examples: Examples, batch_size: int) -> tuple[float, float]:
    """The largest difference of a logit between ``runner`` and ``model``, and the model's largest logit."""
    worst, largest = 0.0, 0.0
    for batch in examples.batches(batch_size):
        with torch.inference_mode():
            expected = logits_in(model(**batch.inputs)).float().numpy()
        difference = np.abs(runner(batch.inputs) - expected).max()
        worst = max(worst, float(difference)) if np.isfinite(difference) else float("inf")
        largest = max(largest, float(np.abs(expected).max()))
    return worst, largest


def save(model: ModelProto, path: Path, single_file: int = SINGLE_FILE) -> int:
    """Write ``model`` as one file, or with its weights in ``<name>.data`` beside it; returns the bytes of both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".data")
    beside.unlink(missing_ok=True)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= single_file:
        onnx.save(model, path)
        return path.stat().st_size
    onnx.save(model, path, save_as_external_data=True, location=beside.name)
    return path.stat().st_size + beside.stat().st_size


def refuse_generating(model: PreTrainedModel) -> None:
    """Raises InputError for an encoder-decoder that generates."""
    if model.config.is_encoder_decoder and model.can_generate():
        problem = "an encoder and a decoder that generates are two graphs, not one"
        raise InputError("model", type(model).__name__, problem, "give a classifier or a causal language model")


def _refuse_others(model: PreTrainedModel) -> None:
    refuse_generating(model)
    if model.dtype != torch.float32:
        raise InputError(
            "model", str(model.dtype), "only float32 weights are exported", "load it with dtype float32; quantize after"
        )


def sample(examples: Examples) -> dict[str, Tensor]:
    """The longest row and the shortest, which is then padded: sizes of 1 would be taken for constants."""
    unknown = sorted(examples.inputs.keys() - _DYNAMIC.keys())
    if unknown:
        raise InputError("examples", unknown[0], "an input of no known shape", f"use only {', '.join(_DYNAMIC)}")
    rows = np.array([examples.lengths.argmax(), examples.lengths.argmin()])
    return next(examples.batches(2, rows)).inputs


def shapes(name: str) -> dict[int, Any]:
    """The dimensions of an input that are not fixed, as torch writes them."""
    return dict.fromkeys(_DYNAMIC[name], torch.export.Dim.DYNAMIC)


@contextlib.contextmanager
def ready(model: PreTrainedModel, attention: str | None = None) -> Iterator[None]:
    """No cache, evaluation mode, that attention; the exporter's remarks about itself are not passed on."""
    before, training = model.config._attn_implementation, model.training
    caches = {
        id(module.config): (module.config, module.config.use_cache) for module in model.modules() if _caches(module)
    }
    loggers = {name: logging.getLogger(name).level for name in _TALKATIVE}
    try:
        model.eval()
        model.set_attn_implementation(attention or before)
        for config, _ in caches.values():
            config.use_cache = False
        for name in loggers:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
        model.set_attn_implementation(before)
        for config, use_cache in caches.values():
            config.use_cache = use_cache
        model.train(training)


def _caches(module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    return isinstance(config, PreTrainedConfig) and hasattr(config, "use_cache")


def tidy(model: ModelProto) -> None:
    """Without what the exporter noted for its own debugging: source lines of this machine, and shapes that go stale."""
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
