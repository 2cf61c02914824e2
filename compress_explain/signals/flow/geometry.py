"""How large is the stream at every depth, and in how many directions does it spread?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm

from compress_explain.progress import Advance
from compress_explain.signals.findings import Finding
from compress_explain.signals.flow.moments import Dimension, Moments, effective_rank, participation_ratio
from compress_explain.signals.flow.row_figures import ratio_of_sums
from compress_explain.signals.stream.layers import passing
from compress_explain.signals.stream.watched import Watched

PASSES = 2

_PART = "flow"
_FIGURES = {"effective_rank": effective_rank, "participation_ratio": participation_ratio}
_MANY = 10  # tokens a dimension, below which ranks come out too small


def geometry(
    watched: Watched, *, batch_size: int, confidence: float, seed: int, advance: Advance = lambda rows: None
) -> list[Finding]:
    """Effective rank, participation ratio and mean norm of the stream at every depth, and how far the norm grew from the depth before.

    Over all real tokens. A first pass takes in their second moments, a second one what each row does to the ranks: intervals are of
    the infinitesimal jackknife over rows, the bootstrap's linear form (Efron 1982, chapter 6), on a logarithmic scale; those
    of norms are of rows that are drawn.
    """
    depths = {name: _Depth.nothing(len(watched.examples)) for name in watched.layers.depths}
    for step in (_Depth.take_in, _Depth.weigh):
        for name, rows, owners, vectors in _streams(watched, batch_size, advance):
            step(depths[name], rows, owners, vectors)
        for depth in depths.values():
            depth.measure()
    return list(_findings(watched, depths, confidence, seed))


def _streams(
    watched: Watched, batch_size: int, advance: Advance
) -> Iterator[tuple[str, np.ndarray, np.ndarray, Float[np.ndarray, "n width"]]]:
    """By batch and depth: its rows, and of each real token which of those it stands in, and what passes there."""
    for batch in watched.examples.batches(batch_size):
        with torch.inference_mode(), passing(watched.model, watched.layers) as seen:
            watched.model(**batch.inputs)
        for name in watched.layers.depths:
            real = watched.real(batch, seen[name].shape[1])
            yield name, batch.rows, real.nonzero()[:, 0].numpy(), seen[name][real].float().numpy()
        advance(len(batch.rows))


@dataclass(kw_only=True)
class _Depth:
    """What is known of one depth: its moments, then its dimensions, and of each row its norms, tokens and pulls."""

    norms: Float[np.ndarray, " rows"] = field(repr=False)
    tokens: Float[np.ndarray, " rows"] = field(repr=False)
    pulls: dict[str, Float[np.ndarray, " rows"]] = field(repr=False)
    moments: Moments | None = None
    dimensions: dict[str, Dimension] = field(default_factory=dict, repr=False)

    @classmethod
    def nothing(cls, rows: int) -> _Depth:
        return cls(norms=np.zeros(rows), tokens=np.zeros(rows), pulls={name: np.zeros(rows) for name in _FIGURES})

    def take_in(self, rows: np.ndarray, owners: np.ndarray, vectors: Float[np.ndarray, "n width"]) -> None:
        if self.moments is None:
            self.moments = Moments.nothing(vectors.shape[1])
        self.moments.add(vectors)
        self.norms[rows] = np.bincount(owners, np.linalg.norm(vectors, axis=1), len(rows))
        self.tokens[rows] = np.bincount(owners, minlength=len(rows))

    def measure(self) -> None:
        """The dimensions, once all is taken in."""
        if self.moments is not None and not self.dimensions:
            self.dimensions = {name: Dimension.of(self.moments, figure) for name, figure in _FIGURES.items()}

    def weigh(self, rows: np.ndarray, owners: np.ndarray, vectors: Float[np.ndarray, "n width"]) -> None:
        assert self.moments is not None, "the first pass is over"
        for name, dimension in self.dimensions.items():
            self.pulls[name][rows] = np.bincount(owners, dimension.pull(self.moments, vectors), len(rows))

    def interval(self, name: str, confidence: float) -> tuple[float, float]:
        value = self.dimensions[name].value
        if len(self.pulls[name]) < 2 or not value > 0:
            return math.nan, math.nan
        half = norm.ppf((1 + confidence) / 2) * math.sqrt(np.square(self.pulls[name]).sum()) / value
        return value * math.exp(-half), value * math.exp(half)

    @property
    def note(self) -> str:
        """Whether there are too few tokens to fill all dimensions."""
        assert self.moments is not None, "the first pass is over"
        tokens, width = self.moments.count, len(self.moments.total)
        return f"of {tokens} tokens in {width} dimensions: too few, it comes out too small" * (tokens < _MANY * width)


def _findings(watched: Watched, depths: dict[str, _Depth], confidence: float, seed: int) -> Iterator[Finding]:
    tell = _teller(watched)
    before: _Depth | None = None
    for name, depth in depths.items():
        for figure, dimension in depth.dimensions.items():
            low, high = depth.interval(figure, confidence)
            yield tell(name, figure, "dimensions", (dimension.value, low, high), depth.note)
        yield tell(name, "norm", "length", ratio_of_sums(depth.norms, depth.tokens, confidence, seed)[:3])
        if before is not None:
            yield tell(name, "norm_growth", "ratio", ratio_of_sums(depth.norms, before.norms, confidence, seed)[:3])
        before = depth


def _teller(watched: Watched) -> Callable[..., Finding]:
    def tell(layer: str, figure: str, unit: str, told: tuple[float, float, float], note: str = "") -> Finding:
        value, low, high = told
        return Finding(
            part=_PART, figure=figure, value=value, low=low, high=high, unit=unit, n=len(watched.examples),
            model=watched.name, layer=layer, note=note,
        )  # fmt: skip

    return tell
