"""What makes an answer of the last layer's output: the linears that run after it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.model.anatomy import Anatomy


def readout(model: PreTrainedModel, anatomy: Anatomy, inputs: dict[str, Tensor]) -> list[str]:
    """The linears that run on ``inputs`` after the last layer, in the order in which they run."""
    layers = [layer.module for layer in anatomy.layers.values()]
    outside = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(name.startswith(f"{layer}.") for layer in layers)
    }
    seen: list[str] = []
    hooks = [module.register_forward_pre_hook(partial(_seen, seen, name)) for name, module in outside.items()]
    hooks += [model.get_submodule(layer).register_forward_hook(partial(_not_yet, seen)) for layer in layers]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(seen))


def _seen(seen: list[str], name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    seen.append(name)


def _not_yet(seen: list[str], module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
    seen.clear()
