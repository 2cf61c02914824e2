"""Range moved from activations into weights before quantization, without changing what the model computes.

An activation with one wide channel makes 8-bit steps coarse for all others. A channel can be divided
by any factor where it is made and its weights multiplied by it where it is read (SmoothQuant,
arXiv:2211.10438, equation 4). Where it is made must be a linear, or a norm that nothing else reads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.model.anatomy import read_anatomy


@dataclass(frozen=True)
class _Passage:
    """A norm, and the linears that alone read what it gives."""

    norm: str
    readers: list[str] = field(default_factory=list)


def smoothed(
    model: PreTrainedModel, examples: Examples, *, alpha: float = 0.5, batch_size: int = 32
) -> PreTrainedModel:
    """A copy of ``model`` whose norms give narrower activations and whose linears take them as they were meant.

    ``alpha``, in [0, 1], is the share of an activation's range that goes into the weights. Changed are
    the norms before a sublayer (of layers whose norms stand before them); where a norm's output is
    also the residual stream, as in BERT, there is nothing that could be moved for free.

    Raises:
        InputError: ``alpha`` is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InputError("alpha", alpha, "not in [0, 1]", "give for example 0.5")
    moved = copy.deepcopy(model)
    passages = list(_passages(moved, examples))
    largest = _largest(moved, passages, examples, batch_size)
    with torch.no_grad():
        for passage in passages:
            _move(moved, passage, largest[passage.norm], alpha)
    return moved


def _passages(model: PreTrainedModel, examples: Examples) -> Iterator[_Passage]:
    """Which norm each linear reads, from one batch: the same tensor comes out of the one and into the other."""
    anatomy = read_anatomy(model, tokens=1)
    before = [layer.module for layer in anatomy.layers.values() if layer.norm == "before"]
    linears = {linear.module for linear in anatomy.linears.values()}
    given: dict[int, tuple[str, Tensor]] = {}
    read: dict[str, _Passage] = {}

    def gives(name: str) -> None:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            given[id(output)] = (name, output)  # kept, so that no other tensor takes its id

        handles.append(model.get_submodule(name).register_forward_hook(hook))

    def reads(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            norm = given.get(id(inputs[0]), ("", None))[0]
            if norm:
                read.setdefault(norm, _Passage(norm)).readers.append(name)

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if _is_norm(module) and any(name.startswith(layer + ".") for layer in before):
            gives(name)
        if name in linears:
            reads(name)
    _run(model, examples, handles, 2, 1)
    yield from read.values()


def _largest(
    model: PreTrainedModel, passages: list[_Passage], examples: Examples, batch_size: int
) -> dict[str, Float[Tensor, " channels"]]:
    """The largest magnitude of every channel that a norm gives, padding included: it is rounded too."""
    largest: dict[str, Tensor] = {}
    handles = []
    for passage in passages:

        def hook(module: nn.Module, inputs: object, output: Tensor, name: str = passage.norm) -> None:
            peak = output.abs().flatten(0, -2).amax(0)
            largest[name] = torch.maximum(largest[name], peak) if name in largest else peak

        handles.append(model.get_submodule(passage.norm).register_forward_hook(hook))
    _run(model, examples, handles, batch_size, None)
    return largest


def _run(
    model: PreTrainedModel,
    examples: Examples,
    handles: list[torch.utils.hooks.RemovableHandle],
    batch_size: int,
    batches: int | None,
) -> None:
    try:
        with torch.inference_mode():
            for number, batch in enumerate(examples.batches(batch_size)):
                if number != batches:
                    model(**batch.inputs)
                else:
                    break
    finally:
        for handle in handles:
            handle.remove()


def _move(model: PreTrainedModel, passage: _Passage, largest: Float[Tensor, " channels"], alpha: float) -> None:
    readers = [model.get_submodule(name) for name in passage.readers]
    weights = torch.stack([_by_input(reader).abs().amax(0) for reader in readers]).amax(0)
    factor = largest.clamp(min=1e-5) ** alpha / weights.clamp(min=1e-5) ** (1 - alpha)
    norm = model.get_submodule(passage.norm)
    for parameter in norm.parameters():
        parameter.div_(factor)
    for reader in readers:
        _by_input(reader).mul_(factor)


def _by_input(linear: nn.Module) -> Float[Tensor, "outputs inputs"]:
    return linear.weight.T if isinstance(linear, Conv1D) else linear.weight  # type: ignore[return-value,operator]


def _is_norm(module: nn.Module) -> bool:
    """A norm that ends with a weight a channel: LayerNorm, RMSNorm and their like, but not a norm of heads."""
    return "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None
