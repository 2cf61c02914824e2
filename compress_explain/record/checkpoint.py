"""A checkpoint for models whose layers no longer have equal shapes.

A folder of the model's ordinary ``config.json``, ``model.safetensors`` and a manifest that lists
what was removed in the coordinates of the original, the ranks of factored linears, and where the removed channels of the
stream lay. A smaller vocabulary is already that of the
configuration; the manifest says which rows of the original are left. Loading rebuilds the original's shapes, cuts
them as the manifest says and then takes the weights strictly: nothing is ever initialised at random.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_model, save_file
from transformers import AutoConfig, GenerationConfig, PreTrainedModel

from compress_explain.editing.surgery import cut
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy, Ranks, Removed, read_anatomy
from compress_explain.model.depth import lengthened
from compress_explain.model.embedding import TOKENS
from compress_explain.model.factored import FactoredLinear
from compress_explain.model.stream import channels_gone, stream_of
from compress_explain.record.ledger import file_digest

FORMAT = 3  # the newest: 1 where nothing is factored and no channel is gone
FACTORED, NARROW = 2, 3
MANIFEST = "compressed.json"
WEIGHTS = "model.safetensors"
_NEEDED = {"format", "model_class", "dtype", "removed", "weights_sha256"}
_COPY_AGAIN = "copy the whole folder again from where it was made"


def save_compressed(
    model: PreTrainedModel,
    folder: Path,
    *,
    removed: Removed,
    base: Anatomy,
    provenance: dict[str, Any],
    ranks: Ranks = MappingProxyType({}),
) -> dict[str, Any]:
    """Write ``model`` (already cut) to ``folder`` and return its manifest.

    ``base`` is the anatomy of the original; ``provenance`` is stored as it is. What lies in a removed
    sublayer or layer is not listed again. ``ranks`` are those of factored linears.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    save_file(_tensors(model), folder / WEIGHTS, metadata={"format": "pt"})
    inside = {
        inner for name, flags in removed.items() if name in base.units and flags.any() for inner in base.within(name)
    }
    manifest = {
        "format": NARROW if channels_gone(removed) else FACTORED if ranks else 1,
        "model_class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "original_parameters": base.parameters,
        "removed": {
            name: flags.nonzero().flatten().tolist()
            for name, flags in removed.items()
            if flags.any() and name != TOKENS and name not in inside
        },
        "tokens": _tokens_left(removed),
        "ranks": dict(ranks),
        "stream": base.stream.facts() if base.stream is not None and channels_gone(removed) else None,
        "weights_sha256": file_digest(folder / WEIGHTS),
        "provenance": provenance,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest


def _tokens_left(removed: Removed) -> dict[str, Any] | None:
    """How many rows the token embedding had, and which of them are left, in their order; None while all are."""
    flags = removed.get(TOKENS)
    if flags is None or not flags.any():
        return None
    return {"original": len(flags), "left": (~flags).nonzero().flatten().tolist()}


def load_compressed(folder: str | Path) -> PreTrainedModel:
    """Load a compressed model; it is an ordinary ``PreTrainedModel`` in evaluation mode.

    Raises:
        InputError: the folder holds no such checkpoint, or its weights are not those of its manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    weights = folder / WEIGHTS
    if not weights.exists() or file_digest(weights) != manifest["weights_sha256"]:
        raise InputError(
            "checkpoint", str(weights), "the weights are not those that the manifest describes", _COPY_AGAIN
        )
    try:
        model = _skeleton(folder, manifest)
        anatomy = _with_stream(read_anatomy(model, tokens=1), manifest.get("stream"))
        _check_tokens(anatomy, manifest, folder)
        _factorize(model, anatomy, manifest.get("ranks", {}))
        cut(model, anatomy, removed_flags(anatomy, manifest["removed"]))
        load_model(model, str(weights), strict=True)
    except (OSError, RuntimeError, AttributeError, IndexError) as error:
        problem = f"its files do not fit each other ({str(error).splitlines()[0][:200]})"
        raise InputError("checkpoint", str(folder), problem, _COPY_AGAIN) from None
    return model.eval()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a compressed checkpoint.

    Raises:
        InputError: there is none, it cannot be read, or it was written by a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        remedy = f"give a folder that holds {MANIFEST}, for example RUN_DIR/artifact"
        raise InputError("checkpoint", str(folder), f"no {MANIFEST} here", remedy)
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        missing = sorted(_NEEDED - manifest.keys())
    except (ValueError, AttributeError):
        raise InputError("checkpoint", str(path), "not a manifest", _COPY_AGAIN) from None
    if missing:
        raise InputError("checkpoint", str(path), f"the manifest lacks {', '.join(missing)}", _COPY_AGAIN)
    if manifest["format"] > FORMAT:
        raise InputError("checkpoint", manifest["format"], "written by a newer version", "upgrade compress-explain")
    return manifest


def _factorize(model: PreTrainedModel, anatomy: Anatomy, ranks: Mapping[str, object]) -> None:
    """Put two linears in the place of each that is factored; their weights come afterwards."""
    for name, rank in ranks.items():
        linear = anatomy.linears.get(name)
        if linear is None or not isinstance(rank, int) or rank < 1:
            raise InputError("checkpoint", name, f"the manifest gives it rank {rank!r}, which cannot be", _COPY_AGAIN)
        bias = model.get_submodule(linear.module).bias is not None
        two = FactoredLinear(linear.inputs, rank, linear.outputs, bias=bias).to(model.dtype)
        model.set_submodule(linear.module, two)


def _with_stream(anatomy: Anatomy, facts: Mapping[str, Any] | None) -> Anatomy:
    """The anatomy with the channels that a manifest tells of; without any where it tells of none."""
    if facts is None:
        return anatomy
    try:
        return anatomy.with_stream(stream_of(facts))
    except (KeyError, TypeError, ValueError, AttributeError):
        problem = "the manifest does not say where the channels of the stream lie"
        raise InputError("checkpoint", "stream", problem, _COPY_AGAIN) from None


def _check_tokens(anatomy: Anatomy, manifest: dict[str, Any], folder: Path) -> None:
    """The configuration already has the smaller vocabulary: it must be the one that the manifest describes."""
    tokens = manifest.get("tokens")
    if tokens is None:
        return
    rows = None if anatomy.embedding is None else anatomy.embedding.count
    if not isinstance(tokens, dict) or rows != len(tokens.get("left", ())):
        problem = f"its configuration has {rows} tokens, its manifest another number"
        raise InputError("checkpoint", str(folder), problem, _COPY_AGAIN)


def removed_flags(anatomy: Anatomy, removed: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Index lists by group, as a manifest holds them, as flags over every group of ``anatomy``.

    The embedding has flags when some of its rows are in the lists.

    Raises:
        InputError: a component that the model does not have.
    """
    flags = {name: torch.zeros(group.count, dtype=torch.bool) for name, group in anatomy.groups.items()}
    for name, indices in removed.items():
        for index in indices:
            part, position = anatomy.find(name if name in anatomy.units else f"{name}.{index}")
            flags.setdefault(part.name, torch.zeros(part.count, dtype=torch.bool))[position] = True
    return flags


def _tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Every tensor once, tied ones under their first name, so that equal models give equal files."""
    once = {
        id(tensor): (name, tensor) for name, tensor in sorted(model.state_dict(keep_vars=True).items(), reverse=True)
    }
    return {name: tensor.detach().contiguous() for name, tensor in once.values()}


def pools(model_class: type[PreTrainedModel]) -> bool:
    """Whether a class may have a pooler behind its layers, or none."""
    return "add_pooling_layer" in inspect.signature(model_class.__init__).parameters


def _as_written(folder: Path, model_class: type[PreTrainedModel]) -> dict[str, bool]:
    """A model without a head has a pooler if its weights do."""
    if not pools(model_class):
        return {}
    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        return {"add_pooling_layer": any(name.startswith("pooler.") for name in weights.keys())}  # noqa: SIM118


def _skeleton(folder: Path, manifest: dict[str, Any]) -> PreTrainedModel:
    """The original's shapes; its weights are all replaced afterwards."""
    model_class = getattr(transformers, str(manifest["model_class"]), None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise InputError(
            "checkpoint", manifest["model_class"], "not a model class of transformers", "upgrade transformers"
        )
    dtype = getattr(torch, str(manifest["dtype"]), None)
    if not isinstance(dtype, torch.dtype):
        raise InputError("checkpoint", manifest["dtype"], "not a number format of torch", _COPY_AGAIN)
    config = lengthened(AutoConfig.from_pretrained(folder), manifest["removed"])
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = model_class(config, **_as_written(folder, model_class))
    finally:
        torch.set_default_dtype(default)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model
