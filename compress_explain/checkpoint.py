"""A checkpoint for models whose layers no longer have equal shapes.

A folder of the model's ordinary ``config.json``, ``model.safetensors`` and a manifest that lists
what was removed in the coordinates of the original. Loading rebuilds the original's shapes, cuts
them as the manifest says and then takes the weights strictly: nothing is ever initialised at random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_model, save_model
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from compress_explain.anatomy import Anatomy, read_anatomy
from compress_explain.errors import InputError
from compress_explain.ledger import file_digest
from compress_explain.surgery import Removed, cut

FORMAT = 1
MANIFEST = "compressed.json"
WEIGHTS = "model.safetensors"


def save_compressed(
    model: PreTrainedModel, folder: Path, *, removed: Removed, base: Anatomy, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Write ``model`` (already cut) to ``folder`` and return its manifest.

    ``base`` is the anatomy of the original; ``provenance`` is stored as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    manifest = {
        "format": FORMAT,
        "model_class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "original_parameters": base.parameters,
        "removed": {name: flags.nonzero().flatten().tolist() for name, flags in removed.items() if flags.any()},
        "weights_sha256": file_digest(folder / WEIGHTS),
        "provenance": provenance,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest


def load_compressed(folder: str | Path) -> PreTrainedModel:
    """Load a compressed model; it is an ordinary ``PreTrainedModel`` in evaluation mode.

    Raises:
        InputError: the folder holds no such checkpoint, or its weights are not those of its manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if file_digest(folder / WEIGHTS) != manifest["weights_sha256"]:
        raise InputError(
            "checkpoint",
            str(folder / WEIGHTS),
            "the weights are not those that the manifest describes",
            "copy the whole folder again from where it was made",
        )
    model = _skeleton(folder, manifest)
    anatomy = read_anatomy(model, tokens=1)
    cut(model, anatomy, removed_flags(anatomy, manifest["removed"]))
    load_model(model, str(folder / WEIGHTS), strict=True)
    return model.eval()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a compressed checkpoint.

    Raises:
        InputError: there is none, or it was written by a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        remedy = f"give a folder that holds {MANIFEST}, for example RUN_DIR/artifact"
        raise InputError("checkpoint", str(folder), f"no {MANIFEST} here", remedy)
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest["format"] > FORMAT:
        raise InputError("checkpoint", manifest["format"], "written by a newer version", "upgrade compress-explain")
    return manifest


def removed_flags(anatomy: Anatomy, removed: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Index lists by group, as a manifest holds them, as flags over every group of ``anatomy``."""
    flags = {name: torch.zeros(group.count, dtype=torch.bool) for name, group in anatomy.groups.items()}
    for name, indices in removed.items():
        flags[name][indices] = True
    return flags


def _skeleton(folder: Path, manifest: dict[str, Any]) -> PreTrainedModel:
    """The original's shapes; its weights are all replaced afterwards."""
    model_class = getattr(transformers, manifest["model_class"], None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise InputError(
            "checkpoint", manifest["model_class"], "not a model class of transformers", "upgrade transformers"
        )
    config = AutoConfig.from_pretrained(folder)
    dtype = getattr(torch, manifest["dtype"])
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = model_class(config)
    finally:
        torch.set_default_dtype(default)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model
