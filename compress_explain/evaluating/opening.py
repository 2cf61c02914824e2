"""Opening any model that can be judged: a folder of transformers, what we deployed, an ONNX file, or a model in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedModel

from compress_explain.comparison.decided import Forward
from compress_explain.comparison.predictions import logits_of
from compress_explain.deployment.forms import ONNX, TORCH
from compress_explain.deployment.manifest import MANIFEST, read_manifest
from compress_explain.errors import InputError
from compress_explain.model.loading import Subject, infer_task, load_subject
from compress_explain.model.tasks import TASKS, task_named
from compress_explain.record.checkpoint import MANIFEST as COMPRESSED
from compress_explain.record.checkpoint import load_compressed
from compress_explain.record.ledger import file_digest
from compress_explain.running.opening import load_deployed, open_form

Fetch = Callable[[str], Path]  # from an address in a registry to a folder on this machine
_REMOTE = ("models:/", "runs:/", "mlflow-artifacts:")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model.onnx", MANIFEST)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One model, ready to be asked.

    ``subject`` says how rows are read for it and what its classes are called; its model has no weights where only an ONNX file is at
    hand, and ``module`` is None then. ``forward`` is the form that is judged.
    """

    source: str
    digest: str
    subject: Subject = field(repr=False)
    forward: Forward = field(repr=False)
    module: PreTrainedModel | None = field(repr=False)
    path: Path | None
    form: str


def open_model(
    source: str, task: str | None = None, *, fetch: Fetch | None = None, like: Opened | None = None
) -> Opened:
    """Open a model for judging; any architecture that transformers knows will do.

    ``fetch`` brings what has an address in a registry. ``like`` is the model that it is judged beside: an ONNX file that lies alone is
    read as that is. ``task`` is what the configuration names the head of, unless given.

    Raises:
        InputError: it cannot be found, opened or read, or has no head for ``task``.
    """
    if source.startswith(_REMOTE):
        if fetch is None:
            raise InputError("model", source, "no registry is at hand to fetch it from", "give a folder or a file")
        return _open(source, _inside(fetch(source), source), task, like)
    path = Path(source)
    return _open(source, path if path.exists() else None, task, like)


def _open(source: str, path: Path | None, task: str | None, like: Opened | None) -> Opened:
    if path is None:
        if source.endswith(".onnx") or source.startswith((".", "/")):
            raise InputError("model", source, "no such file or folder", f"check the path (from {Path.cwd()})")
        return _open_torch(source, None, task)  # an id of the hub
    if path.is_file():
        return _open_onnx(source, path, task, like)
    if (path / MANIFEST).exists() or (path / COMPRESSED).exists():
        return _open_deployed(source, path, task)
    if not any(path.glob("*.safetensors")) and (path / "model.onnx").exists():
        return _open_onnx(source, path / "model.onnx", task, like)
    return _open_torch(source, path, task)


def _open_torch(source: str, path: Path | None, task: str | None) -> Opened:
    where = source if path is None else str(path)
    subject = load_subject(where, task or infer_task(where, any_family=True), any_family=True)
    return Opened(
        source=source, digest=subject.digest, subject=subject, forward=logits_of(subject.model), module=subject.model,
        path=path, form=TORCH.name,
    )  # fmt: skip


def _open_deployed(source: str, folder: Path, task: str | None) -> Opened:
    """What a run of ours deployed, as it was judged there."""
    model = load_compressed(folder)
    form = read_manifest(folder).form if (folder / MANIFEST).exists() else TORCH
    file = read_manifest(folder).check(folder) if (folder / MANIFEST).exists() else folder / "model.safetensors"
    digest = file_digest(file)
    subject = Subject(
        model=model, processor=_processor(folder, _task_of(model, task), source), task=_task_of(model, task), source=source,
        digest=digest,
    )  # fmt: skip
    return Opened(
        source=source, digest=digest, subject=subject, forward=load_deployed(folder), module=model, path=folder,
        form=form.name,
    )  # fmt: skip


def _open_onnx(source: str, file: Path, task: str | None, like: Opened | None) -> Opened:
    if file.suffix != ".onnx":
        raise InputError("model", source, "a file that is not ONNX", "give a folder with config.json, or a file .onnx")
    forward = open_form(ONNX, file, torch.get_num_threads())
    subject = _read_as(file, source, task, like)
    return Opened(
        source=source, digest=file_digest(file), subject=subject, forward=forward, module=None, path=file, form="onnx"
    )


def _read_as(file: Path, source: str, task: str | None, like: Opened | None) -> Subject:
    """How rows are read for a file: as what lies beside it says, or else as for the model that it is judged beside."""
    folder = file.parent
    if not (folder / "config.json").exists():
        if like is None:
            problem, remedy = "no config.json lies beside it", "put the model's configuration and tokenizer beside it"
            raise InputError("model", source, problem, remedy)
        return Subject(
            model=like.subject.model, processor=like.subject.processor, task=like.subject.task, source=source,
            digest=file_digest(file), pooling=like.subject.pooling,
        )  # fmt: skip
    name = task or (like.subject.task if like else infer_task(str(folder), any_family=True))
    with torch.device("meta"):
        bare = task_named(name).loader.from_config(AutoConfig.from_pretrained(folder))
    return Subject(
        model=bare, processor=_processor(folder, name, source), task=name, source=source, digest=file_digest(file)
    )


def _task_of(model: PreTrainedModel, task: str | None) -> str:
    name = type(model).__name__
    return task or next((each.name for each in TASKS.values() if name.endswith(each.heads)), "text-classification")


def _processor(folder: Path, task: str, source: str) -> Any:
    loader = AutoImageProcessor if TASKS[task].reads == "image" else AutoTokenizer
    try:
        return loader.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        problem = f"no tokenizer or image processor could be loaded ({str(error).splitlines()[0][:200]})"
        raise InputError("model", source, problem, "save it beside the model") from None


def _inside(folder: Path, source: str) -> Path:
    """Where in what a registry gave the model lies: the folder nearest to the top that has one."""
    places = sorted((path for name in _WEIGHTS for path in folder.rglob(name)), key=lambda path: len(path.parts))
    if not places:
        problem = f"none of {', '.join(_WEIGHTS)} is in it"
        raise InputError("model", source, problem, "log it with save_pretrained's files, in safetensors or ONNX")
    return places[0].parent
