"""What parts of a model hand on, on the mean over all real tokens of some rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch
from compress_explain.signals.interventions.ablated_parts import Ablated
from compress_explain.signals.stream.watched import Watched


@torch.inference_mode()
def means_of(watched: Watched, parts: Sequence[Ablated], batch_size: int) -> Mapping[str, Float[Tensor, " width"]]:
    """By part: the mean of its columns of what enters its module, or of all that its module gives; padding left out."""
    entering = {part.module: _Mean() for part in parts if part.columns is not None}
    given = {part.module: _Mean() for part in parts if part.columns is None}
    for batch in watched.examples.batches(batch_size):
        handles = _watch(watched.model, entering, given, partial(_real, watched, batch))
        try:
            watched.model(**batch.inputs)
        finally:
            for handle in handles:
                handle.remove()
    return {
        part.name: given[part.module].value if part.columns is None else entering[part.module].value[part.columns]
        for part in parts
    }


@dataclass
class _Mean:
    """A mean that grows."""

    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    count: int = 0

    def add(self, values: Float[Tensor, "n width"]) -> None:
        self.total = self.total + values.double().sum(0)
        self.count += len(values)

    @property
    def value(self) -> Float[Tensor, " width"]:
        return self.total / self.count


def _watch(
    model: PreTrainedModel,
    entering: Mapping[str, _Mean],
    given: Mapping[str, _Mean],
    real: Callable[[Tensor], Float[Tensor, "n width"]],
) -> list[torch.utils.hooks.RemovableHandle]:
    def comes(mean: _Mean) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            mean.add(real(inputs[0]))

        return look

    def goes(mean: _Mean) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
            mean.add(real(output))

        return look

    before = [model.get_submodule(name).register_forward_pre_hook(comes(mean)) for name, mean in entering.items()]
    return before + [model.get_submodule(name).register_forward_hook(goes(mean)) for name, mean in given.items()]


def _real(watched: Watched, batch: Batch, values: Float[Tensor, "*batch width"]) -> Float[Tensor, "n width"]:
    """Of every token that is no padding; some families have rows and tokens in one axis."""
    flat = values.flatten(0, -2)
    return flat[watched.real(batch, len(flat) // len(batch.rows)).flatten()]
