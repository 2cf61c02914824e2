"""Ablation: what becomes of a model's own decisions without one of its parts, set to zero or to its mean?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.errors import InputError
from compress_explain.model.anatomy import Anatomy
from compress_explain.model.heads import logits_in
from compress_explain.pricing.prefix import Prefix, always, answering
from compress_explain.progress import Advance
from compress_explain.signals.findings import Finding
from compress_explain.signals.interventions.ablated_parts import Ablated, ablated_parts
from compress_explain.signals.interventions.means import means_of
from compress_explain.signals.interventions.ratios import ratios_of_sums
from compress_explain.signals.stream.decisions import decision_logits, decision_numbers, decision_rows
from compress_explain.signals.stream.layers import Layers
from compress_explain.signals.stream.places import giving
from compress_explain.signals.stream.watched import Watched
from compress_explain.stats import unseen_rate_bound

PART = "ablation"
WAYS: tuple[Literal["zero", "mean"], ...] = ("zero", "mean")
_VOCABULARY = 1000  # classes, of which the log-shares are kept in single precision


def ablate(
    model: PreTrainedModel,
    examples: Examples,
    layers: Layers,
    *,
    renamed: Mapping[str, str] = MappingProxyType({}),
    like: Anatomy | None = None,
    ways: Sequence[Literal["zero", "mean"]] = WAYS,
    rows: int = 64,
    batch_size: int = 8,
    model_name: Literal["original", "compressed"] = "original",
    confidence: float = 0.95,
    seed: int = 0,
    advance: Advance = lambda rows: None,
) -> list[Finding]:
    """``kl`` and ``flips`` without each head, each eighth of a layer's neurons, and each sublayer, on at most ``rows`` rows.

    ``kl.zero`` is the mean of KL(own, ablated) in nats with what the part hands on set to zero, ``kl.mean`` with it set to its mean
    over all tokens of the rows, which leaves what the part says of any input and takes what it says of this one (Wang et al. 2022,
    arXiv:2211.00593); ``flips.zero`` and ``flips.mean`` are the shares of decisions that become others. Of a head or neuron that
    is what enters its site, of a sublayer what is added to the stream, biases included. Nothing is fitted or compensated. Where one token carries values
    far beyond all others, as a first token often does, the mean carries a share of them to every token and may do more harm than zero.

    ``other`` of a finding is the component: ``renamed`` maps the model's own names to the original's, and ``like`` is the
    original, whose eighths of neurons are taken. Intervals are of rows that are drawn; where no decision became another, up to the bound on a
    rate that was not seen. Told of the layers that are given; one finding without a value says why where the model's parts are not known.

    A row takes a pass and, for each part and way, what comes after the part: of L layers half on average. All parts of 6
    layers of 12 heads are 264 such halves; batches are small, so that little of them is padding.
    """
    watched = Watched(name=model_name, model=model, examples=examples.draw(rows, seed), layers=layers)
    try:
        parts = ablated_parts(model, layers, renamed, like)
    except InputError as error:
        return [_finding(watched, "", "", "kl.zero", (math.nan,) * 3, 0, str(error))]
    means = means_of(watched, parts, batch_size)
    seen = _Seen.nothing(watched.examples, parts, ways)
    for batch in watched.examples.batches(batch_size):
        _ablate(watched, batch, means, seen)
        advance(len(batch.rows))
    return list(_told(watched, seen, confidence, seed))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """By way, part and decision: the KL divergence in nats, and whether it became another."""

    parts: Sequence[Ablated]
    ways: Sequence[Literal["zero", "mean"]]
    kl: Float[np.ndarray, "ways parts n"] = field(repr=False)
    flips: Float[np.ndarray, "ways parts n"] = field(repr=False)

    @classmethod
    def nothing(cls, examples: Examples, parts: Sequence[Ablated], ways: Sequence[Literal["zero", "mean"]]) -> _Seen:
        shape = (len(ways), len(parts), int(examples.decisions.sum()))
        return cls(parts=parts, ways=ways, kl=np.zeros(shape), flips=np.zeros(shape))


@torch.inference_mode()
def _ablate(
    watched: Watched,
    batch: Batch,
    means: Mapping[str, Float[Tensor, " width"]],
    seen: _Seen,
) -> None:
    here = decision_numbers(watched.examples, batch)
    prefix = Prefix(watched.model, batch.inputs)
    own = _log_shares(decision_logits(watched.examples, batch, prefix.logits))
    for number, part in enumerate(seen.parts):
        with prefix.reused(part.module):
            for way, name in enumerate(seen.ways):
                mean = means[part.name]
                with _without(watched.model, prefix, part, mean if name == "mean" else torch.zeros_like(mean)):
                    logits = logits_in(watched.model(**batch.inputs))
                found = _log_shares(decision_logits(watched.examples, batch, logits))
                seen.kl[way, number, here] = (own.exp() * (own - found)).sum(-1).clamp(min=0).numpy()
                seen.flips[way, number, here] = (own.argmax(-1) != found.argmax(-1)).numpy()


@contextmanager
def _without(model: PreTrainedModel, prefix: Prefix, part: Ablated, instead: Float[Tensor, " width"]) -> Iterator[None]:
    """Inside it the part hands on ``instead``, on every token."""
    module = model.get_submodule(part.module)
    with ExitStack() as stack:
        if part.columns is None:
            output = prefix.output(part.module)
            stack.enter_context(answering(module, always(output)))
            stack.enter_context(giving(module, instead.to(output.dtype).expand_as(output)))
        else:
            handle = module.register_forward_pre_hook(_entered_by(part.columns, instead))
            stack.callback(handle.remove)
        yield


def _entered_by(columns: Tensor, instead: Float[Tensor, " width"]) -> Callable[..., Any]:
    def swap(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        entering = inputs[0].clone()
        entering[..., columns] = instead.to(entering.dtype)
        return (entering, *inputs[1:])

    return swap


def _log_shares(logits: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
    wide = logits if logits.shape[-1] > _VOCABULARY else logits.double()
    return wide.log_softmax(-1)


def _told(watched: Watched, seen: _Seen, confidence: float, seed: int) -> Iterator[Finding]:
    rows = decision_rows(watched.examples)
    values = np.stack([seen.kl, seen.flips])  # (figures, ways, parts, n)
    told = ratios_of_sums(values.reshape(-1, len(rows)), np.ones(len(rows)), rows, confidence, seed)
    told = told.reshape(*values.shape[:-1], 3)
    unseen = unseen_rate_bound(len(np.unique(rows)), confidence)
    for number, part in enumerate(seen.parts):
        for figure, name in enumerate(("kl", "flips")):
            for way, instead in enumerate(seen.ways):
                value, low, high = map(float, told[figure, way, number])
                high = unseen if name == "flips" and value == 0 else high
                yield _finding(watched, part.layer, part.name, f"{name}.{instead}", (value, low, high), len(rows))


def _finding(
    watched: Watched, layer: str, part: str, figure: str, told: tuple[float, float, float], n: int, note: str = ""
) -> Finding:
    value, low, high = told
    return Finding(
        part=PART, figure=figure, value=value, low=low, high=high, n=n, note=note,
        unit="nats" if figure.startswith("kl") else "share",
        model=watched.name, layer=layer, other=part,
    )  # fmt: skip
