"""Opening what is deployed in an artifact: the one place that decides what runs and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from compress_explain.deployment.forms import ONNX, TORCH, Form
from compress_explain.deployment.manifest import MANIFEST, read_manifest
from compress_explain.errors import InputError
from compress_explain.record.checkpoint import WEIGHTS, load_compressed

if TYPE_CHECKING:
    from compress_explain.deployment.compiled import Dtype
    from compress_explain.deployment.runtime import Runner


def load_deployed(folder: str | Path, threads: int | None = None) -> Runner:
    """What the gates judged, ready to run: a function from model inputs to logits, ``(batch, classes)`` in float32.

    ``folder`` is a run's ``artifact``; ``threads`` are torch's unless given. Machine code is opened
    too: load only what you or your pipeline made. In a folder without a manifest an ONNX file runs,
    or else the checkpoint.

    Raises:
        InputError: nothing that runs is there, it is not what the manifest describes, or it was
            compiled for another processor.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        path = manifest.check(folder)
        _refuse_elsewhere(path, manifest.processor)
        return open_form(manifest.form, path, threads)
    file = folder / "model.onnx"
    return open_form(ONNX, file, threads) if file.exists() else open_form(TORCH, folder / WEIGHTS, threads)


def open_form(form: Form, path: Path, threads: int | None = None) -> Runner:
    """What runs the file ``path``; of a checkpoint, the weights in its folder."""
    from compress_explain.deployment.compiled import CompiledRunner, TorchRunner  # seconds to import
    from compress_explain.deployment.runtime import OnnxRunner

    threads = threads or torch.get_num_threads()
    if form.runtime == "onnx":
        return OnnxRunner(path=path, threads=threads)
    if form.runtime == "compiled":
        return CompiledRunner(path=path, dtype=cast("Dtype", form.scheme), threads=threads)
    return TorchRunner(model=load_compressed(path.parent), threads=threads)


def _refuse_elsewhere(path: Path, processor: tuple[str, ...]) -> None:
    """Machine code that finds no instruction that it uses would end the process."""
    if not processor:
        return
    from compress_explain.deployment.processor import capabilities

    lacking = sorted(set(processor) - set(capabilities()))
    if lacking:
        problem = f"compiled for a processor that has {', '.join(lacking[:4])}, which this one lacks"
        remedy = "compile it on the kind of machine that runs it, or set runtime to onnx"
        raise InputError("artifact", str(path), problem, remedy)
