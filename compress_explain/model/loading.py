"""Loading the model that is to be compressed or explained, with the ordinary loaders of transformers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

from compress_explain.errors import InputError, did_you_mean
from compress_explain.families import families, family_of
from compress_explain.model.pooling import Pooling, read_pooling
from compress_explain.model.tasks import (
    FEATURE_EXTRACTION,
    QUESTION_ANSWERING,
    TASKS,
    TEXT_GENERATION,
    Task,
    task_named,
)
from compress_explain.record.checkpoint import MANIFEST, load_compressed, pools
from compress_explain.record.ledger import file_digest

if TYPE_CHECKING:
    from compress_explain.model.pooling import Mode

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The original model, what turns raw inputs into its inputs, and where both came from."""

    model: PreTrainedModel = field(repr=False)
    processor: Any = field(repr=False)
    task: str
    source: str
    digest: str
    pooling: Pooling | None = None

    @property
    def tokenwise(self) -> bool:
        """Whether it answers for words, tokens or bounds, several in a row, rather than once for the whole row."""
        return self.kind.decides != "row"

    @property
    def kind(self) -> Task:
        """What it is for."""
        return TASKS[self.task]

    @property
    def labels(self) -> dict[int, str]:
        """What each class is called; of a language model, each token; of bounds and neighbours, which have no classes, nothing."""
        if self.kind.decides in ("bound", "neighbour"):
            return {}
        if self.kind.decides == "token":
            return {index: token for token, index in self.processor.get_vocab().items()}
        return {int(index): str(name) for index, name in self.model.config.id2label.items()}


def quieten() -> None:
    """Keep transformers from talking over our own progress lines."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def load_subject(
    source: str,
    task: str,
    dtype: str = "float32",
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    any_family: bool = False,
) -> Subject:
    """Load a model folder or hub id in evaluation mode, from safetensors only.

    ``dtype`` is that of the weights: ``bfloat16`` is for models too large for ``float32``, and what
    is computed from their outputs is then still summed in float32. ``pooling`` and ``normalize`` say how
    embeddings are made, where the folder does not or other ones are wanted; else by the mean, of length 1. A model that is only
    judged, not compressed, may be of ``any_family``.

    Raises:
        InputError: it cannot be found, holds only pickled weights, is of an unknown family, or has
            no trained head for ``task``; or ``dtype`` is neither of the two.
    """
    task_named(task)
    if dtype not in _DTYPES:
        raise InputError("dtype", dtype, "unknown type of weights", did_you_mean(dtype, _DTYPES))
    if (Path(source) / MANIFEST).exists():
        raise InputError("model", source, "this model is already compressed", "start from the original model")
    config = read_config(source, any_family=any_family)
    if task != FEATURE_EXTRACTION and (pooling is not None or normalize is not None):
        name, value = ("pooling", pooling) if pooling is not None else ("normalize", normalize)
        raise InputError(name, value, f"a model for {task} makes no embeddings", "leave it out")
    if task == TEXT_GENERATION and not any_family:
        _refuse_encoders(source, config)
    if task in (QUESTION_ANSWERING, FEATURE_EXTRACTION) and not any_family:
        _refuse_decoders(source, config, task)
    embeds = _pooling(source, pooling, normalize) if task == FEATURE_EXTRACTION else None
    _refuse_pickles(source)
    model, report = _load(source, task, _DTYPES[dtype])
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
        pooling=embeds,
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


def infer_task(source: str, *, any_family: bool = False) -> str:
    """The task that a model's configuration names the head of.

    Raises:
        InputError: there is no configuration, or its head is for none of :data:`TASKS`.
    """
    architecture = next(iter(read_config(source, any_family=any_family).architectures or ()), None)
    for task in TASKS.values():
        if str(architecture).endswith(task.heads):
            return task.name
    raise InputError(
        "model", source, f"its architecture, {architecture}, has no head for a task that is known here",
        f"give a model with a head for one of: {', '.join(TASKS)}",
    )  # fmt: skip


def read_config(source: str, *, any_family: bool = False) -> PretrainedConfig:
    """The configuration of a model folder or hub id.

    Raises:
        InputError: there is none to be found, or it is of an unknown family, where it may not be of ``any_family``.
    """
    try:
        document, _ = PretrainedConfig.get_config_dict(source)
        if not any_family:
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
        digest.update(name.encode() + _bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16


def _load(source: str, task: str, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        loaded = TASKS[task].loader.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **_without_pooler(source, task)
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        problem = f"its weights could not be loaded ({str(error).splitlines()[0][:200]})"
        remedy = "give a complete folder with model.safetensors that fits its config.json"
        raise InputError("model", source, problem, remedy) from None
    return loaded[0], loaded[1]


def _without_pooler(source: str, task: str) -> dict[str, bool]:
    """Embeddings are made of the tokens' states: what else some families make of the first one is left out."""
    if task != FEATURE_EXTRACTION:
        return {}
    model_class = AutoModel._model_mapping[type(AutoConfig.from_pretrained(source))]  # type: ignore[attr-defined]
    return {"add_pooling_layer": False} if pools(model_class) else {}


def _refuse_encoders(source: str, config: PretrainedConfig) -> None:
    """A model that also reads to the right would be asked for tokens that it sees."""
    if any(stack.name != "decoder" for stack in family_of(config.model_type).stacks):
        decoders = [name for name, row in families().items() if all(stack.name == "decoder" for stack in row.stacks)]
        problem = f"{config.model_type} is no causal language model"
        raise InputError("model", source, problem, f"give one of: {', '.join(sorted(decoders))}")


def _pooling(source: str, mode: str | None, normalize: bool | None) -> Pooling:
    found = read_pooling(source) if mode is None else None
    found = found or Pooling(mode=cast("Mode", mode or "mean"))
    return found if normalize is None else replace(found, normalize=normalize)


def _refuse_decoders(source: str, config: PretrainedConfig, task: str) -> None:
    """What is decided of a whole text takes one stack that reads it in both directions."""
    encoders = [
        name for name, row in families().items()
        if [stack.name for stack in row.stacks] == ["encoder"] and name in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES
    ]  # fmt: skip
    if config.model_type not in encoders:
        what = "answers are found" if task == QUESTION_ANSWERING else "texts are embedded"
        problem = f"{config.model_type} is no encoder of text, and {what} with those only"
        raise InputError("model", source, problem, f"give one of: {', '.join(sorted(encoders))}")


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
    reads_images = TASKS[task].reads == "image"
    loader = AutoImageProcessor if reads_images else AutoTokenizer
    try:
        return loader.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        problem = f"no {'image processor' if reads_images else 'tokenizer'} could be loaded"
        raise InputError(
            "model", source, f"{problem} ({str(error).splitlines()[0][:200]})", "save it beside the model"
        ) from None
