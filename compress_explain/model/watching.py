"""What passes in a model: the states after some of its layers, kept from each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def watching(model: PreTrainedModel, layers: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Inside it every pass of the model leaves the states after each layer, ``(batch, tokens, width)``, under its name."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = output if isinstance(output, Tensor) else output[0]

        return keep

    handles = [model.get_submodule(module).register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
