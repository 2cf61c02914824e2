"""What passes in a model: the states after some of its layers, or what enters some of its modules, kept from each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel


@contextmanager
def watching(model: PreTrainedModel, layers: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Inside it every pass of the model leaves the states after each layer, ``(batch, tokens, width)``, under its name."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = output if isinstance(output, Tensor) else output[0]

        return keep

    with _removed([model.get_submodule(path).register_forward_hook(hook(name)) for name, path in layers.items()]):
        yield seen


@contextmanager
def entering(model: PreTrainedModel, sites: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Inside it every pass of the model leaves what enters each module, its first input, under its name."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[name] = inputs[0]

        return keep

    with _removed([model.get_submodule(path).register_forward_pre_hook(hook(name)) for name, path in sites.items()]):
        yield seen


@contextmanager
def _removed(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """The hooks are taken off afterwards, whatever happens inside."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
