"""Where does each head look now, how spread, and who looks where removed heads looked?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from compress_explain.data.examples import Batch
from compress_explain.progress import Advance
from compress_explain.signals.findings import Finding
from compress_explain.signals.flow.attention_maps import Maps, attending, divergence, eager, entropy, paths_needed
from compress_explain.signals.flow.row_figures import means_of_rows
from compress_explain.signals.stream.read_alike import rows_read_alike
from compress_explain.signals.stream.watched import Watched

_PART = "flow"
_AT_ONCE = 2**27  # attention weights of both models in memory
_HEADS, _TOKENS = 16, 200  # where nobody says how many


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How attention is gone through. ``kept`` are, by layer, the heads that are left, by their number in the original, in order.

    A layer that is not in ``kept`` has all of its heads. Heads are those that ask: where several share keys and values, each counts.
    """

    kept: Mapping[str, Sequence[int]] = field(repr=False)
    batch_size: int
    confidence: float
    seed: int


def attention_flow(original: Watched, compressed: Watched, rounds: Rounds, advance: Advance) -> list[Finding]:
    """Per head: how far its map moved and its entropy in both models; per removed head: who is nearest now; per layer: sparsity.

    All are means over rows, in which every real token counts alike as one that asks. Only rows are compared that both
    models read as the same tokens.
    """
    alike = rows_read_alike(original.examples, compressed.examples)
    if not len(alike):
        return [_untold("the two models read no row as the same tokens")]
    seen: dict[str, _Layer] = {}
    with ExitStack() as stack:
        for each in dict.fromkeys((original.model, compressed.model)):
            stack.enter_context(eager(each))
        size = min(rounds.batch_size, _rows_at_once(original))
        for batch in original.examples.batches(size, alike):
            maps = [_maps(each, each.examples.batch(batch.rows)) for each in (original, compressed)]
            _look((original, compressed), batch, maps, rounds, seen)
            advance(len(batch.rows))
    if not seen:
        return [_untold("the original gives no attention maps away")]
    return [finding for layer in seen.values() for finding in layer.findings(rounds.confidence, rounds.seed)]


def _untold(why: str, layer: str = "") -> Finding:
    return Finding(part=_PART, figure="attention_js", value=math.nan, unit="bits", n=0, layer=layer, note=why)


def _rows_at_once(watched: Watched) -> int:
    config = watched.model.config
    heads = getattr(config, "num_attention_heads", None) or _HEADS
    tokens = int(watched.examples.lengths.max())
    tokens = _TOKENS if tokens == 1 else tokens
    return max(1, _AT_ONCE // (2 * len(watched.layers) * heads * tokens**2))


def _maps(watched: Watched, batch: Batch) -> Maps:
    """Of one batch. Asked for are maps only where they do not come unasked: transformers leaves hooks in a model that is asked."""
    with torch.inference_mode(), attending(watched.model, watched.layers) as seen:
        watched.model(**batch.inputs)
        if not seen:
            watched.model(**batch.inputs, output_attentions=True)
        return dict(seen)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """What was seen of one layer, a list of batches for each figure; ``kept`` None where it cannot be compared, for the reason ``why``."""

    name: str
    heads: int
    kept: tuple[int, ...] | None
    why: str = ""
    figures: dict[str, list[np.ndarray]] = field(default_factory=dict, repr=False)

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(head for head in range(self.heads) if self.kept is not None and head not in self.kept)

    def keep(self, figure: str, values: Tensor) -> None:
        self.figures.setdefault(figure, []).append(values.double().numpy())

    def findings(self, confidence: float, seed: int) -> Iterator[Finding]:
        told = {
            name: means_of_rows(np.concatenate(each).reshape(sum(map(len, each)), -1), confidence, seed)
            for name, each in self.figures.items()
        }
        n = sum(map(len, self.figures["sparsity original"]))
        if self.why:
            yield _untold(self.why, self.name)
        for model, heads in (("original", range(self.heads)), ("compressed", self.kept or ())):
            for place, head in enumerate(heads):
                yield self._finding("attention_entropy", "nats", told[f"entropy {model}"][place], n, model, head)
            if f"sparsity {model}" in told:
                yield self._finding("sparsity", "share", told[f"sparsity {model}"][0], n, model)
        for place, head in enumerate(self.kept or ()):
            yield self._finding("attention_js", "bits", told["js"][place], n, head=head)
        yield from self._taken_over(told, n)

    def _taken_over(self, told: Mapping[str, Float[np.ndarray, "figures 3"]], n: int) -> Iterator[Finding]:
        if not self.kept:
            return
        for place, head in enumerate(self.removed):
            pairs = slice(place * len(self.kept), (place + 1) * len(self.kept))
            nearest = int(told["now"][pairs, 0].argmin())
            heir = self.head(self.kept[nearest])
            for figure, name in (("taken_over", "now"), ("taken_over_nearer", "nearer")):
                yield self._finding(figure, "bits", told[name][pairs][nearest], n, head=head, note=heir)

    def head(self, number: int) -> str:
        """The component that a head is."""
        return f"{self.name}.attention.head.{number}"

    def _finding(
        self,
        figure: str,
        unit: str,
        told: Float[np.ndarray, " 3"],
        n: int,
        model: str = "",
        head: int | None = None,
        note: str = "",
    ) -> Finding:
        value, low, high = map(float, told)
        return Finding(
            part=_PART, figure=figure, value=value, low=low, high=high, unit=unit, n=n, model=model,
            layer=self.name, other="" if head is None else self.head(head), note=note,
        )  # fmt: skip


def _look(
    watched: tuple[Watched, Watched], batch: Batch, maps: list[Maps], rounds: Rounds, seen: dict[str, _Layer]
) -> None:
    """Add what a batch shows of every layer."""
    for name, original in maps[0].items():
        real = watched[0].real(batch, original.shape[2])
        other = maps[1].get(name)
        if name not in seen:
            kept = rounds.kept.get(name) if name in watched[1].layers.names else ()
            seen[name] = _layer(name, original, other, kept)
        layer = seen[name]
        layer.keep("entropy original", _over_queries(entropy(original), real))
        layer.keep("sparsity original", paths_needed(original, real))
        if other is not None and layer.kept:
            left = other[:, list(layer.kept)] if other.shape[1] == layer.heads else other
            _compare(layer, original, left, real)


def _layer(name: str, original: Tensor, other: Tensor | None, kept: Sequence[int] | None) -> _Layer:
    heads = original.shape[1]
    left = tuple(range(heads) if kept is None else kept)
    if other is None:
        why = "the compressed model gives no attention away there" if left else ""
        return _Layer(name=name, heads=heads, kept=None, why=why)
    if original.shape[2:] != other.shape[2:]:
        why = f"{tuple(original.shape[2:])} tokens attend to others in the original, {tuple(other.shape[2:])} now"
        return _Layer(name=name, heads=heads, kept=None, why=why)
    if other.shape[1] not in (len(left), heads):
        why = f"of {heads} heads {other.shape[1]} are left, and nobody says which"
        return _Layer(name=name, heads=heads, kept=None, why=why)
    return _Layer(name=name, heads=heads, kept=left)


def _compare(layer: _Layer, original: Tensor, left: Tensor, real: Bool[Tensor, "batch queries"]) -> None:
    kept = list(layer.kept or ())
    layer.keep("entropy compressed", _over_queries(entropy(left), real))
    layer.keep("sparsity compressed", paths_needed(left, real))
    layer.keep("js", _over_queries(divergence(original[:, kept], left), real))
    if not layer.removed:
        return
    now, before = [], []
    for head in layer.removed:
        gone = original[:, head : head + 1].expand_as(left)
        now.append(_over_queries(divergence(gone, left), real))
        before.append(_over_queries(divergence(gone, original[:, kept]), real))
    layer.keep("now", torch.cat(now, 1))
    layer.keep("nearer", torch.cat(before, 1) - torch.cat(now, 1))


def _over_queries(
    values: Float[Tensor, "batch heads queries"], real: Bool[Tensor, "batch queries"]
) -> Float[Tensor, "batch heads"]:
    """The mean over the real tokens of each row."""
    weights = real[:, None].to(values.dtype)
    return torch.where(real[:, None], values, 0.0).sum(-1) / weights.sum(-1)
