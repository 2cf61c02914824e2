"""Which neurons never speak, and which never stop: what a nonlinearity erased, and where it does nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.families import families, family_of
from compress_explain.progress import Advance
from compress_explain.signals.findings import Finding
from compress_explain.signals.layers import Layers
from compress_explain.signals.watched import Watched
from compress_explain.stats import resampled_counts

PASSES = 2

_PART = "flow"
_OFF = 0.01  # of the layer's root mean square, up to which a neuron is off
_DEAD, _SATURATED = 0.999, 0.99  # of the tokens
_BLOCKS = 40  # of rows, whose counts are kept apart
_RESAMPLES = 400

Look = Callable[[str, Float[Tensor, "n neurons"], np.ndarray], None]


def units_alive(
    watched: Watched, *, batch_size: int, confidence: float, seed: int, advance: Advance = lambda rows: None
) -> list[Finding]:
    """The shares of each layer's neurons that are dead and saturated, by what enters the feed-forward's last linear.

    A neuron is off on a token where its activation is at most 1% of the root mean square of all the layer's. It is dead where it is off on at least
    99.9% of the real tokens, saturated where it is on, on at least 99%: a linear unit then, as far as these tokens go. Of few tokens
    a neuron that speaks rarely looks dead. Intervals are of rows that are drawn, in up to 40 blocks.
    """
    sites = feed_forward_sites(watched.model, watched.layers)
    if not sites:
        why = f"where the neurons of {type(watched.model).__name__} lie is not known"
        return [_finding(watched, "", "dead", (math.nan,) * 3, why)]
    sizes, counts = _Sizes(), _Counts(rows=len(watched.examples))
    for look in (sizes.look, lambda name, values, owners: counts.look(name, values, owners, sizes.limit(name))):
        _pass(watched, sites, look, batch_size, advance)
    return [
        _finding(watched, name, figure, told)
        for name in sites
        for figure, told in counts.shares(name, confidence, seed).items()
    ]


def feed_forward_sites(model: PreTrainedModel, layers: Layers) -> dict[str, str]:
    """By layer: the linear that its neurons enter; no layer whose feed-forward part is gone, none of an unknown family."""
    if model.config.model_type not in families():
        return {}
    forms = family_of(model.config.model_type).stacks[-1].feed_forward
    found = {}
    for name, path in zip(layers.names, layers.modules, strict=True):
        modules = {inner for inner, _ in model.get_submodule(path).named_modules()}
        down = next((form.down for form in forms if {form.up, form.down, form.gate or form.up} <= modules), None)
        if down is not None:
            found[name] = f"{path}.{down}"
    return found


@dataclass(frozen=True)
class _Sizes:
    """By layer: the sum of squares of all activations, and how many there are."""

    sums: dict[str, list[float]] = field(default_factory=dict)

    def look(self, name: str, values: Float[Tensor, "n neurons"], owners: np.ndarray) -> None:
        squares, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = [squares + float(values.double().square().sum()), count + values.numel()]

    def limit(self, name: str) -> float:
        """The activation up to which a neuron is off."""
        squares, count = self.sums[name]
        return _OFF * math.sqrt(squares / count)


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """By layer and block of rows: on how many tokens each neuron is on; and how many there are."""

    rows: int
    on: dict[str, Int[np.ndarray, "blocks neurons"]] = field(default_factory=dict)
    tokens: dict[str, Int[np.ndarray, " blocks"]] = field(default_factory=dict)

    def look(self, name: str, values: Float[Tensor, "n neurons"], owners: np.ndarray, limit: float) -> None:
        blocks = min(self.rows, _BLOCKS)
        if name not in self.on:
            self.on[name] = np.zeros((blocks, values.shape[1]), dtype=np.int64)
            self.tokens[name] = np.zeros(blocks, dtype=np.int64)
        member = torch.zeros(blocks, len(values)).index_put_(
            (torch.from_numpy(owners % blocks), torch.arange(len(values))), torch.tensor(1.0)
        )
        self.on[name] += (member @ (values.abs() > limit).float()).round().long().numpy()
        self.tokens[name] += np.bincount(owners % blocks, minlength=blocks)

    def shares(self, name: str, confidence: float, seed: int) -> dict[str, tuple[float, float, float]]:
        """Of the neurons: dead and saturated ones, with their intervals."""
        on, tokens = self.on[name], self.tokens[name]
        drawn = [_shares(times @ on, times @ tokens) for times in resampled_counts(len(on), _RESAMPLES, seed)]
        value = _shares(on.sum(0)[None], tokens.sum(0)[None])
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        told = {}
        for figure in value:
            low, high = np.quantile(np.concatenate([each[figure] for each in drawn]), tails)
            told[figure] = float(value[figure][0]), float(low), float(high)
        return told


def _shares(on: Int[np.ndarray, "some neurons"], tokens: Int[np.ndarray, " some"]) -> dict[str, np.ndarray]:
    often = on / tokens[:, None]
    return {"dead": (often <= 1 - _DEAD).mean(1), "saturated": (often >= _SATURATED).mean(1)}


def _pass(watched: Watched, sites: dict[str, str], look: Look, batch_size: int, advance: Advance) -> None:
    """Show what enters each site, of real tokens, with the row that each stands in."""
    for batch in watched.examples.batches(batch_size):
        with torch.inference_mode(), _entering(watched.model, sites) as seen:
            watched.model(**batch.inputs)
            for name, values in seen.items():
                real = watched.real(batch, values.shape[1])
                owners = batch.rows[real.nonzero()[:, 0].numpy()]
                look(name, values[real].float(), owners)
        advance(len(batch.rows))


@contextmanager
def _entering(model: PreTrainedModel, sites: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Inside it a pass leaves what enters each site under its name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen[name] = inputs[0]

        return hook

    handles = [model.get_submodule(path).register_forward_pre_hook(keep(name)) for name, path in sites.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _finding(watched: Watched, layer: str, figure: str, told: tuple[float, float, float], note: str = "") -> Finding:
    value, low, high = told
    return Finding(
        part=_PART, figure=figure, value=value, low=low, high=high, unit="share", n=len(watched.examples),
        model=watched.name, layer=layer, note=note,
    )  # fmt: skip
