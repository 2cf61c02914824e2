"""What enters linears on calibration rows: the range that static quantization rounds by, found before anything is priced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress_explain.choosing.moments import Moments
from compress_explain.data.examples import Examples
from compress_explain.editing.masks import Masks
from compress_explain.editing.refits import weights_of
from compress_explain.errors import InputError
from compress_explain.weight_edits import FIRST_AND_SECOND, Activations, Found

_METHODS = ("minmax", "percentile", "entropy")
_BINS = 4096  # of a histogram
_LEVELS = 256
_SMALLEST = 1e-5  # of a channel's or a weight's magnitude, where one is divided by the other


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """How the range of a linear's input follows from calibration rows.

    By their extremes (``minmax``), so that ``percentile`` of the values lie within (in (0, 100]), or
    (``entropy``) as wide around zero as loses least information, by KL divergence, once there are 256 levels.
    ``smooth``, in [0, 1], is the share of a channel's range that goes into the weights (SmoothQuant,
    arXiv:2211.10438, equation 4); None leaves it where it is. ``products`` is whether the mean products of a linear's
    inputs with one another are found too: the square of its inputs in float32 for each linear.

    Raises:
        InputError: on creation, for values outside of these.
    """

    method: str = "minmax"
    percentile: float = 99.999
    smooth: float | None = None
    products: bool = False

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise InputError("ranges", self.method, "no such way to find a range", f"choose from {', '.join(_METHODS)}")
        if not 0 < self.percentile <= 100:
            raise InputError("percentile", self.percentile, "not in (0, 100]", "give for example 99.999")
        if self.smooth is not None and not 0 <= self.smooth <= 1:
            raise InputError("smooth", self.smooth, "not in [0, 1]", "give for example 0.5, or leave it out")


def find_activations(
    masks: Masks,
    examples: Examples,
    ranges: Ranges,
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda rows: None,
) -> dict[str, Activations]:
    """What enters each linear of the model as it is now, without padding, from one pass or two over ``examples``.

    Of a linear that is factored, what enters each of the two, called ``.first`` and ``.second``.
    """
    places = dict(_places(masks))
    modules = {name: place.module for name, place in places.items()}
    seen = {
        name: _Seen(moments=Moments(place.weight.shape[1]) if ranges.products else None)
        for name, place in places.items()
    }
    watch(masks, examples, modules, batch_size, advance, lambda name, values: seen[name].add(places[name].of(values)))
    found = {name: each.activations(places[name].weight, ranges) for name, each in seen.items()}
    if ranges.method == "minmax":
        return found
    counts = {name: _Histogram(each) for name, each in found.items()}
    watch(masks, examples, modules, batch_size, advance, lambda name, values: counts[name].add(places[name].of(values)))
    return {name: each.narrowed(ranges) for name, each in counts.items()}


@dataclass(frozen=True)
class _Place:
    """A linear: the module that stands for it, its weight, and what its module's input goes ``through`` before it."""

    module: str
    weight: Tensor
    through: Tensor | None = None

    def of(self, values: Float[Tensor, "tokens inputs"]) -> Float[Tensor, "tokens entering"]:
        return values if self.through is None else values @ self.through.T.to(values.dtype)


def _places(masks: Masks) -> Iterator[tuple[str, _Place]]:
    for name, linear in masks.anatomy.linears.items():
        if masks.in_two(name):
            factors, (first, second) = masks.factors[name], FIRST_AND_SECOND
            yield name + first, _Place(linear.module, factors.right)
            yield name + second, _Place(linear.module, factors.left, factors.right)
        else:
            yield name, _Place(linear.module, weights_of(masks.model, linear.module).weight.detach())


def passes_of(ranges: Ranges) -> int:
    """Passes over the examples that :func:`find_activations` takes."""
    return 1 if ranges.method == "minmax" else 2


def save_activations(found: Found, path: Path) -> None:
    """Write them, to be read back bit for bit."""
    tensors = {f"{name}.range": torch.tensor([each.low, each.high]).double() for name, each in found.items()}
    tensors |= {f"{name}.divisor": each.divisor for name, each in found.items() if each.divisor is not None}
    tensors |= {f"{name}.products": each.products for name, each in found.items() if each.products is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def load_activations(path: Path) -> dict[str, Activations]:
    """Read back what :func:`save_activations` wrote."""
    tensors = load_file(path)
    ranges = {name.removesuffix(".range"): each.tolist() for name, each in tensors.items() if name.endswith(".range")}
    return {
        name: Activations(
            low=low, high=high, divisor=tensors.get(f"{name}.divisor"), products=tensors.get(f"{name}.products")
        )
        for name, (low, high) in ranges.items()
    }


@dataclass
class _Seen:
    """The smallest and the largest value of each input so far, and what their products are where that is asked for."""

    moments: Moments | None = None
    low: Tensor | None = None
    high: Tensor | None = None

    def add(self, values: Float[Tensor, "tokens inputs"]) -> None:
        if self.moments is not None:
            self.moments.add(values)
        low, high = values.amin(0), values.amax(0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def activations(self, weight: Tensor, ranges: Ranges) -> Activations:
        products = None if self.moments is None else self.moments.second.float()
        if self.low is None or self.high is None:
            return Activations(low=0.0, high=0.0, products=products)  # the model never ran it on these rows
        divisor, low, high = None, self.low, self.high
        if ranges.smooth is not None:
            divisor = _divisor(torch.maximum(low.abs(), high.abs()), weight.abs().amax(0), ranges.smooth)
            low, high = low * (1 / divisor), high * (1 / divisor)
        return Activations(low=float(low.min()), high=float(high.max()), divisor=divisor, products=products)


def _divisor(
    largest: Float[Tensor, " inputs"], weight: Float[Tensor, " inputs"], share: float
) -> Float[Tensor, " inputs"]:
    divisor = largest.clamp(min=_SMALLEST) ** share / weight.clamp(min=_SMALLEST) ** (1 - share)
    return torch.where(largest > 0, divisor, 1.0).float()


@dataclass
class _Histogram:
    """How often values of each size occurred, between the extremes and around zero."""

    whole: Activations
    counts: Float64[Tensor, " bins"] = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.float64))

    @property
    def edge(self) -> float:
        return max(abs(self.whole.low), abs(self.whole.high))

    def add(self, values: Float[Tensor, "tokens inputs"]) -> None:
        if self.edge == 0:
            return
        divisor = self.whole.divisor
        divided = values if divisor is None else values * (1 / divisor)
        self.counts += torch.histc(divided, _BINS, -self.edge, self.edge).double()

    def narrowed(self, ranges: Ranges) -> Activations:
        if self.edge == 0 or not self.counts.any():
            return self.whole
        low, high = self._percentile(ranges.percentile) if ranges.method == "percentile" else self._entropy()
        return replace(self.whole, low=max(low, self.whole.low), high=min(high, self.whole.high))

    def _percentile(self, percentile: float) -> tuple[float, float]:
        """As much is cut off at one end as at the other."""
        cut = (100 - percentile) / 200
        shares = self.counts.cumsum(0) / self.counts.sum()
        first = int((shares <= cut).sum())
        last = int((shares < 1 - cut).sum())
        return self._at(first), self._at(last + 1)

    def _entropy(self) -> tuple[float, float]:
        middle = _BINS // 2
        halves = range(_LEVELS // 2, middle + 1, _LEVELS // 16)
        best = min(halves, key=lambda half: _information_lost(self.counts, half))
        return self._at(middle - best), self._at(middle + best)

    def _at(self, index: int) -> float:
        return self.edge * (2 * index / _BINS - 1)


def _information_lost(counts: Float64[Tensor, " bins"], half: int) -> float:
    """KL divergence of what ``half`` of the bins each side of the middle and 256 levels leave of a histogram from it."""
    middle = len(counts) // 2
    inside = counts[middle - half : middle + half]
    clipped = inside.clone()
    clipped[0] += counts[: middle - half].sum()
    clipped[-1] += counts[middle + half :].sum()
    level = torch.arange(2 * half) * _LEVELS // (2 * half)
    filled = (clipped > 0).double()
    sums, bins = (torch.zeros(_LEVELS, dtype=torch.float64).index_add_(0, level, each) for each in (inside, filled))
    rounded = filled * (sums / bins.clamp(min=1))[level]
    kept = rounded > 0
    lost = clipped[~kept].sum() / clipped.sum()  # what only lies in bins that came from beyond the range
    was, now = clipped / clipped.sum(), rounded / rounded.sum()
    return float((was[kept] * (was[kept] / now[kept]).log()).sum() + lost * 100)


def watch(
    masks: Masks,
    examples: Examples,
    linears: dict[str, str],
    batch_size: int,
    advance: Callable[[int], None],
    see: Callable[[str, Float[Tensor, "tokens inputs"]], None],
) -> None:
    """Run the model and let ``see`` each linear's input, token by token and without padding."""
    for batch in examples.batches(batch_size):
        with _hooked(masks, linears, batch.inputs.get("attention_mask"), see), torch.inference_mode():
            masks.model(**batch.inputs)
        advance(len(batch.rows))


@contextmanager
def _hooked(
    masks: Masks,
    linears: dict[str, str],
    mask: Tensor | None,
    see: Callable[[str, Float[Tensor, "tokens inputs"]], None],
) -> Iterator[None]:
    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values = inputs[0].detach().float()
            padded = mask is not None and values.shape[:-1] == mask.shape
            see(name, values[mask.bool()] if padded and mask is not None else values.flatten(0, -2))

        return hook

    handles = [
        masks.model.get_submodule(module).register_forward_hook(look(name), prepend=True)
        for name, module in linears.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
