"""A stream without some of its channels, on the untouched model: norms over what is left, zeros read of the rest.

A norm is computed over the channels that are there and gives zeros for the others; a linear that reads
the stream reads zeros there. What is written to a removed channel is never read, so it does not matter.
Channels can also be there in part: a norm then weighs each by how far it is there, which is the one
smooth way between a norm over all channels and a norm over the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.model.stream import CHANNELS, Stream

Handle = torch.utils.hooks.RemovableHandle
Here = Float[Tensor, " channels"]  # how far each channel is there, in [0, 1]

_LEAST = 1e-12


def narrow(model: PreTrainedModel, stream: Stream, here: Here) -> list[Handle]:
    """Let ``model`` compute with its channels as far as they are ``here``, until the hooks are removed."""
    handles = [model.get_submodule(name).register_forward_hook(partial(_normed, here)) for name in stream.norms]
    for name, starts in stream.reads.items():
        reader = model.get_submodule(name)
        handles.append(reader.register_forward_pre_hook(partial(_read, _over_inputs(here, starts))))
    return handles


def silent_channels(
    model: PreTrainedModel, stream: Stream, components: Iterable[str], batch: dict[str, Tensor]
) -> list[str]:
    """Those of ``components`` that are exactly zero wherever the stream is read on ``batch``: nothing would go with them."""
    alive = torch.zeros(stream.count, dtype=torch.bool)
    looked_at = [*((name, (0,)) for name in stream.norms), *stream.reads.items()]
    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(_look, alive, starts)) for name, starts in looked_at
    ]
    try:
        with torch.inference_mode():
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return [each for each in components if not alive[int(each.removeprefix(f"{CHANNELS}."))]]


def is_norm(module: nn.Module, count: int) -> bool:
    """Whether what a module gives for one channel depends on the others."""
    x = torch.linspace(-1, 2, count, dtype=module.weight.dtype)[None]  # type: ignore[union-attr,arg-type]
    other = x.clone()
    other[..., -1] += 1
    with torch.no_grad():
        return not torch.equal(module(x)[..., 0], module(other)[..., 0])


# Hooks: not closures, which a type checker at run time would take apart each time anew.


def _normed(here: Here, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    x, there = inputs[0], here.to(inputs[0].device)
    if isinstance(module, nn.LayerNorm):
        return _layer_normed(module, x, there).to(output.dtype)
    return _as_if_alone(module, x, there).to(output.dtype)


def _layer_normed(norm: nn.LayerNorm, x: Tensor, here: Here) -> Tensor:
    x, count = x.to(torch.promote_types(x.dtype, torch.float32)), here.sum()
    centred = x - (x * here).sum(-1, keepdim=True) / count
    variance = (centred.square() * here).sum(-1, keepdim=True) / count
    normed = centred * (variance + norm.eps).rsqrt()
    normed = normed if norm.weight is None else normed * norm.weight
    return (normed if norm.bias is None else normed + norm.bias) * here


def _as_if_alone(norm: nn.Module, x: Tensor, here: Here) -> Tensor:
    """Of a norm by the root of the mean square: what it gives when the mean is that of the channels that are here.

    It is asked for an input whose mean square over all channels is that, and its answer scaled back.
    """
    share = here.sum() / len(here)
    part = torch.where(here > 0, here.clamp(min=_LEAST).sqrt(), 0.0)  # no slope where nothing is here
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return norm.forward(x * (part / share.sqrt())) * (part * share.sqrt())


def _over_inputs(here: Here, starts: tuple[int, ...]) -> Tensor:
    """How far each input of a reader is there: the channels, in as many blocks."""
    return here.repeat(len(starts))


def _read(here: Tensor, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0] * here.to(inputs[0].device, inputs[0].dtype), *inputs[1:])


def _look(
    alive: Bool[Tensor, " channels"], starts: tuple[int, ...], module: nn.Module, inputs: tuple[Any, ...]
) -> None:
    seen = (inputs[0] != 0).flatten(0, -2).any(0).cpu()
    for start in starts:
        alive |= seen[start : start + len(alive)]
