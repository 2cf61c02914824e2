"""The residual stream from layer to layer: which modules write it, what they are called, and what passes there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.errors import InputError
from compress_explain.families import Stack, families, family_of
from compress_explain.model.anatomy import base_prefix
from compress_explain.model.watching import watching

EMBEDDING = "embedding"  # the stream before the first layer


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The layers of the stack that a model's head reads.

    ``names`` are those of the original's components (``encoder.layer.3``), ``modules`` where they lie in the model. ``norm`` says
    where norms stand, ``before`` or ``after`` what they are for; None where nobody knows.
    """

    names: tuple[str, ...]
    modules: tuple[str, ...]
    norm: Literal["before", "after"] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def depths(self) -> tuple[str, ...]:
        """Every place where the stream is looked at: before the first layer, and after each."""
        return (EMBEDDING, *self.names)


def layers_of(model: PreTrainedModel) -> Layers:
    """The layers of ``model``; of a family that is not known, of the longest list of equal modules in it.

    Raises:
        InputError: there is no such list.
    """
    stack = _stack_read(model)
    if stack is not None:
        path = base_prefix(model) + stack.layers
        norm = stack.norm
        if stack.norm_before is not None:
            norm = "before" if getattr(model.config, stack.norm_before, True) else "after"
        name = f"{stack.name}.layer"
    else:
        path, name, norm = _longest_list(model), "layer", None  # type: ignore[assignment]
    count = len(model.get_submodule(path))  # type: ignore[arg-type]
    return Layers(
        names=tuple(f"{name}.{index}" for index in range(count)),
        modules=tuple(f"{path}.{index}" for index in range(count)),
        norm=norm,
    )


def _stack_read(model: PreTrainedModel) -> Stack | None:
    """The last of the family's stacks that this model has: of one for images or sounds alone, that of those."""
    if model.config.model_type not in families():
        return None
    paths = {name for name, _ in model.named_modules()}
    stacks = family_of(model.config.model_type).stacks
    return next((stack for stack in reversed(stacks) if base_prefix(model) + stack.layers in paths), None)


def _longest_list(model: PreTrainedModel) -> str:
    lists = {
        path: len(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(each) for each in module}) == 1
    }
    if not lists:
        problem = "no list of layers was found in it"
        raise InputError("model", type(model).__name__, problem, "register its family, see compress_explain.families")
    return max(lists, key=lambda path: lists[path])


def beside(original: Layers, compressed: Layers, removed: Collection[str] = ()) -> Layers:
    """The compressed model's layers under the names that they have in the original.

    ``removed`` are the layers that are known to be gone. Where the numbers do not fit even so, layers are named after those at
    the same share of the depth, the last after the last.
    """
    left = tuple(name for name in original.names if name not in removed)
    if len(left) != len(compressed):
        shares = [(index + 1) / len(compressed) for index in range(len(compressed))]
        left = tuple(original.names[max(0, round(share * len(original)) - 1)] for share in shares)
    return Layers(names=left, modules=compressed.modules, norm=compressed.norm)


Passing = dict[str, Float[Tensor, "batch tokens width"]]


@contextmanager
def passing(model: PreTrainedModel, layers: Layers) -> Iterator[Passing]:
    """Inside it every pass of the model leaves the stream at each of :attr:`Layers.depths` under its name, with its gradient."""
    with watching(model, dict(zip(layers.names, layers.modules, strict=True))) as seen:

        def before(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            seen[EMBEDDING] = inputs[0] if inputs else options["hidden_states"]

        handle = model.get_submodule(layers.modules[0]).register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()
