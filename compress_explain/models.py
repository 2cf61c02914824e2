"""Loading the model that is to be compressed, with the ordinary loaders of transformers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from compress_explain.checkpoint import MANIFEST, load_compressed
from compress_explain.errors import InputError, did_you_mean
from compress_explain.families import family_of
from compress_explain.ledger import file_digest

_LOADERS: dict[str, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "image-classification": AutoModelForImageClassification,
}
TASKS = tuple(_LOADERS)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The original model, what turns raw inputs into its inputs, and where both came from."""

    model: PreTrainedModel = field(repr=False)
    processor: Any = field(repr=False)
    task: str
    source: str
    digest: str

    @property
    def labels(self) -> dict[int, str]:
        return {int(index): str(name) for index, name in self.model.config.id2label.items()}


def quieten() -> None:
    """Keep transformers from talking over our own progress lines."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def load_subject(source: str, task: str) -> Subject:
    """Load a model folder or hub id in float32, evaluation mode, from safetensors only.

    Raises:
        InputError: it cannot be found, holds only pickled weights, is of an unknown family, or has
            no trained head for ``task``.
    """
    check_task(task)
    if (Path(source) / MANIFEST).exists():
        raise InputError("model", source, "this model is already compressed", "start from the original model")
    read_config(source)
    _refuse_pickles(source)
    model, report = _load(source, task)
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        raise InputError(
            "model",
            source,
            f"its weights have no trained head for {task} (missing {', '.join(missing[:3]) or 'shapes'})",
            f"choose a model fine-tuned for {task}, or another task: {', '.join(TASKS)}",
        )
    return Subject(
        model=model.eval(),
        processor=_processor(source, task),
        task=task,
        source=source,
        digest=model_digest(model, source),
    )


def load_any(source: str) -> PreTrainedModel:
    """A model of any known family for looking at, with the class that its configuration names.

    Raises:
        InputError: it cannot be found or loaded, or its family is unknown.
    """
    if (Path(source) / MANIFEST).exists():
        return load_compressed(source)
    config = read_config(source)
    _refuse_pickles(source)
    name = (config.architectures or ["AutoModel"])[0]
    try:
        return getattr(transformers, name).from_pretrained(source, dtype=torch.float32, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        problem = f"could not be loaded as {name} ({str(error).splitlines()[0][:200]})"
        raise InputError("model", source, problem, "give a complete folder with model.safetensors") from None


def check_task(task: str) -> None:
    """Raises InputError for a task without a loader."""
    if task not in _LOADERS:
        raise InputError("task", task, "unknown task", did_you_mean(task, TASKS))


def read_config(source: str) -> PretrainedConfig:
    """The configuration of a model folder or hub id.

    Raises:
        InputError: there is none to be found, or it is of an unknown family.
    """
    try:
        document, _ = PretrainedConfig.get_config_dict(source)
        family_of(str(document.get("model_type")))
        return AutoConfig.from_pretrained(source)
    except InputError:
        raise
    except Exception as error:  # configuration classes raise many unrelated types
        problem = f"no model configuration could be loaded ({str(error).splitlines()[0][:200]})"
        remedy = "give a folder that save_pretrained wrote, or a hub id and a network"
        raise InputError("model", source, problem, remedy) from None


def model_digest(model: PreTrainedModel, source: str) -> str:
    """SHA-256 of the weights: of the file when there is one, else of the tensors."""
    file = Path(source) / "model.safetensors"
    if file.exists():
        return file_digest(file)
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(source: str, task: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        loaded = _LOADERS[task].from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        problem = f"its weights could not be loaded ({str(error).splitlines()[0][:200]})"
        remedy = "give a complete folder with model.safetensors that fits its config.json"
        raise InputError("model", source, problem, remedy) from None
    return loaded[0], loaded[1]


def _refuse_pickles(source: str) -> None:
    folder = Path(source)
    if not folder.is_dir():
        return
    weights = list(folder.glob("*.safetensors"))
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if not weights and pickles:
        raise InputError(
            "model",
            str(folder / pickles[0]),
            "a pickled checkpoint can run code when it is opened and is never loaded",
            "convert it where you trust it: load it there and call model.save_pretrained(folder)",
        )


def _processor(source: str, task: str) -> Any:
    loader = AutoTokenizer if task == "text-classification" else AutoImageProcessor
    try:
        return loader.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        problem = f"no {'tokenizer' if task == 'text-classification' else 'image processor'} could be loaded"
        raise InputError(
            "model", source, f"{problem} ({str(error).splitlines()[0][:200]})", "save it beside the model"
        ) from None
