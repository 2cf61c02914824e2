"""Which neurons never speak, which never stop, which say the same of everything: what a nonlinearity, or an edit, erased."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from compress_explain.families import families, family_of
from compress_explain.model.watching import entering
from compress_explain.progress import Advance
from compress_explain.signals.findings import Finding
from compress_explain.signals.stream.layers import Layers
from compress_explain.signals.stream.watched import Watched
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
    """The shares of each layer's neurons that are dead, saturated and constant, by what enters the feed-forward's last linear.

    A neuron is off on a token where its activation is at most 1% of the root mean square of all the layer's. It is dead where it is off on at least
    99.9% of the real tokens, saturated where it is on, on at least 99%: a linear unit then, as far as these tokens go. It is constant where its
    standard deviation is within that same 1%: it tells nothing apart, whether dead or, as a neuron whose weights are zero and whose bias is not, saturated.
    Of few tokens a neuron that speaks rarely looks dead. Intervals are of rows that are drawn, in up to 40 blocks.
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
    stacks = family_of(model.config.model_type).stacks
    known = {stack.name: stack.feed_forward for stack in stacks}
    forms = known.get(layers.names[0].split(".")[0], stacks[-1].feed_forward)
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
    """By layer and block of rows: on how many tokens each neuron is on, the sums of its activations and of their squares.

    And how many tokens there are.
    """

    rows: int
    limits: dict[str, float] = field(default_factory=dict)
    seen: dict[str, Float[np.ndarray, "blocks 3 neurons"]] = field(default_factory=dict)
    tokens: dict[str, Int[np.ndarray, " blocks"]] = field(default_factory=dict)

    def look(self, name: str, values: Float[Tensor, "n neurons"], owners: np.ndarray, limit: float) -> None:
        blocks = min(self.rows, _BLOCKS)
        if name not in self.seen:
            self.limits[name] = limit
            self.seen[name] = np.zeros((blocks, 3, values.shape[1]))
            self.tokens[name] = np.zeros(blocks, dtype=np.int64)
        exact, here = values.double(), owners % blocks
        for block in np.unique(here):
            own = exact[torch.from_numpy(here == block)]
            told = torch.stack([(own.abs() > limit).sum(0), own.sum(0), own.square().sum(0)])
            self.seen[name][block] += told.numpy()
        self.tokens[name] += np.bincount(here, minlength=blocks)

    def shares(self, name: str, confidence: float, seed: int) -> dict[str, tuple[float, float, float]]:
        """Of the neurons: dead, saturated and constant ones, with their intervals."""
        seen, tokens, limit = self.seen[name], self.tokens[name], self.limits[name]
        drawn = [
            _shares(np.tensordot(times, seen, 1), times @ tokens, limit)
            for times in resampled_counts(len(seen), _RESAMPLES, seed)
        ]
        value = _shares(seen.sum(0)[None], tokens.sum(0)[None], limit)
        return {
            figure: _around(float(each[0]), np.concatenate([draw[figure] for draw in drawn]), confidence)
            for figure, each in value.items()
        }


def _around(value: float, draws: Float[np.ndarray, " resamples"], confidence: float) -> tuple[float, float, float]:
    """A share with the spread of its resamples about their mean, which is off it: fewer neurons are as steady on rows drawn twice."""
    low, high = value + np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]) - draws.mean()
    return value, min(value, max(0.0, float(low))), max(value, min(1.0, float(high)))


def _shares(
    seen: Float[np.ndarray, "some 3 neurons"], tokens: Int[np.ndarray, " some"], limit: float
) -> dict[str, np.ndarray]:
    often, mean, square = np.moveaxis(seen / tokens[:, None, None], 1, 0)
    steady = square - np.square(mean) <= limit**2
    return {
        "dead": (often <= 1 - _DEAD).mean(1),
        "saturated": (often >= _SATURATED).mean(1),
        "constant": steady.mean(1),
    }


def _pass(watched: Watched, sites: dict[str, str], look: Look, batch_size: int, advance: Advance) -> None:
    """Show what enters each site, of real tokens, with the row that each stands in."""
    for batch in watched.examples.batches(batch_size):
        with torch.inference_mode(), entering(watched.model, sites) as seen:
            watched.model(**batch.inputs)
            for name, entered in seen.items():
                values = entered.reshape(len(batch.rows), -1, entered.shape[-1])  # some families line all tokens up
                real = watched.real(batch, values.shape[1])
                owners = batch.rows[real.nonzero()[:, 0].numpy()]
                look(name, values[real].float(), owners)
        advance(len(batch.rows))


def _finding(watched: Watched, layer: str, figure: str, told: tuple[float, float, float], note: str = "") -> Finding:
    value, low, high = told
    return Finding(
        part=_PART, figure=figure, value=value, low=low, high=high, unit="share", n=len(watched.examples),
        model=watched.name, layer=layer, note=note,
    )  # fmt: skip
