"""What each head of each layer attends to, taken from where it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.signals.stream.layers import Layers

Maps = dict[str, Float[Tensor, "batch heads queries keys"]]

_EAGER = "eager"
_SUM = 0.01  # that a query's attention may be off 1
_ROUNDING = 1e-6
_BITS = 12  # of a number that its bin does not tell apart


@contextmanager
def eager(model: PreTrainedModel) -> Iterator[None]:
    """Inside it attention is computed step by step, so that its maps exist; then again as before, in every part of the model."""
    before = _implementations(model)
    if set(before.values()) == {_EAGER}:
        yield
        return
    model.set_attn_implementation(_EAGER)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _implementations(model: PreTrainedModel) -> dict[str, str]:
    """How attention is computed: by part of the configuration, the model itself under no name."""
    config = model.config
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    own = {name: part._attn_implementation for name, part in parts.items() if part is not None}
    return {"": config._attn_implementation, **own}


@contextmanager
def attending(model: PreTrainedModel, layers: Layers) -> Iterator[Maps]:
    """Inside it every pass leaves each layer's self-attention under its name, where the layer gives it away.

    Most do where attention is :func:`eager`, the others where they are asked by the argument ``output_attentions``. It is the first of a layer's maps: a decoder's
    cross-attention comes second. Taken from the layer itself, it cannot slip to another where a layer has no attention left.
    """
    seen: Maps = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for each in output if isinstance(output, tuple) else ():
                if name not in seen and _is_map(each):
                    seen[name] = each

        return hook

    def forget(module: nn.Module, inputs: Any) -> None:
        seen.clear()

    handles = [model.register_forward_pre_hook(forget)]
    for name, path in zip(layers.names, layers.modules, strict=True):
        handles += [module.register_forward_hook(keep(name)) for module in model.get_submodule(path).modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _is_map(value: Any) -> bool:
    """Whether this is shares of attention: four axes, and of each first query they sum up to 1."""
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        return False
    first = value[:, :, 0]
    return bool((first >= 0).all()) and bool((first.float().sum(-1) - 1).abs().max() < _SUM)


def divergence(
    one: Float[Tensor, "*heads queries keys"], other: Float[Tensor, "*heads queries keys"]
) -> Float[Tensor, "*heads queries"]:
    """Jensen-Shannon divergence of two distributions over keys, in bits, from 0 to 1 (Lin 1991, eq. 3.4)."""
    mixed = torch.special.entr((one + other) / 2).sum(-1)
    apart = (entropy(one) + entropy(other)) / 2
    return ((mixed - apart) / torch.log(torch.tensor(2.0))).clamp(min=0)


def entropy(maps: Float[Tensor, "*heads queries keys"]) -> Float[Tensor, "*heads queries"]:
    """In nats."""
    return torch.special.entr(maps).sum(-1)


def paths_needed(
    maps: Float[Tensor, "batch heads queries keys"], real: Tensor, share: float = 0.9
) -> Float[Tensor, " batch"]:
    """The share of a row's paths, from a key to a query through a head, that is enough to hold ``share`` of its attention.

    The strongest ones. Counted are paths from real queries to keys that any head sees: not to padding, nor to what comes later in
    a causal model. Where all keys are attended alike, the share of paths is that of the attention.
    """
    weights = (maps.float() * real[:, None, :, None]).cpu()
    possible = weights.shape[1] * (weights > 0).any(1).flatten(1).sum(1)
    needed = [_strongest(each, share) for each in weights.flatten(1).numpy()]
    return torch.tensor(needed, dtype=torch.float64) / possible


def _strongest(weights: Float[np.ndarray, " n"], share: float) -> int:
    """How many of the largest weights hold ``share`` of them all.

    Not sorted, which takes longer than the attention itself, but counted in bins a two-thousandth wide, the upper bits of the
    number; in the last of those they count as equal.
    """
    bins = weights.view(np.int32) >> _BITS
    counts = np.bincount(bins)[::-1]
    sums = np.bincount(bins, weights)[::-1]
    held = np.cumsum(sums)
    last = int(np.searchsorted(held, share * held[-1] * (1 - _ROUNDING)))
    missing = share * held[-1] * (1 - _ROUNDING) - (held[last] - sums[last])
    return int(counts[:last].sum() + np.ceil(missing * counts[last] / sums[last]))
