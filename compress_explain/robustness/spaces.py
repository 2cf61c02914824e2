"""Where an attack may move an input: the embeddings of its tokens, or its pixels, and how far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.errors import EditError
from compress_explain.model.heads import logits_in

_LEAST = 1e-12  # of a norm that is divided by


@runtime_checkable
class Space(Protocol):
    """Shifts of a batch of inputs. ``unit`` is what a radius of 1 means."""

    @property
    def unit(self) -> float: ...

    def still(self, batch: Batch) -> Tensor:
        """The shift that changes nothing."""
        ...

    def logits(self, batch: Batch, shift: Tensor) -> Float[Tensor, "batch classes"]: ...

    def uphill(self, batch: Batch, gradient: Tensor) -> Tensor:
        """The shift of size 1 along which ``gradient`` promises most."""
        ...

    def within(self, batch: Batch, shift: Tensor, radius: float) -> Tensor:
        """The nearest allowed shift of at most ``radius``."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenSpace:
    """Every real token's embedding within an L2 ball of its own, added where the model looks it up.

    Special tokens and padding stay. The radius counts in the median norm of the embeddings of the split's other tokens, each as
    often as it occurs: it means the same to models whose embeddings differ in scale or in width, and is the same when tokens
    that never occur are taken out. Positions, padding and token types are those of the tokens, which the model still reads.
    ``order`` says which of its classes stands for each label, where not they themselves.
    """

    model: PreTrainedModel = field(repr=False)
    special: frozenset[int]
    unit: float
    order: tuple[int, ...] | None = None

    @classmethod
    def over(
        cls, model: PreTrainedModel, examples: Examples, special: frozenset[int], order: tuple[int, ...] | None = None
    ) -> TokenSpace:
        """That of a split."""
        ids = np.concatenate(examples.inputs["input_ids"])
        kinds, times = np.unique(ids[~np.isin(ids, sorted(special))], return_counts=True)
        with torch.no_grad():
            vectors = model.get_input_embeddings()(torch.from_numpy(kinds)[None])[0].float()
        norms = np.repeat(torch.linalg.vector_norm(vectors, dim=1).numpy(), times)
        return cls(model=model, special=special, unit=float(np.median(norms)) if len(norms) else 0.0, order=order)

    def still(self, batch: Batch) -> Float[Tensor, "batch tokens width"]:
        with torch.no_grad():
            return torch.zeros_like(self._table(batch.inputs["input_ids"]), dtype=torch.float32)

    def logits(self, batch: Batch, shift: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch classes"]:
        """
        Raises:
            EditError: the model does not look up its tokens once, so that its answer is not that to shifted ones.
        """
        with _shifted(self._table, shift) as lookups:
            found = _ordered(logits_in(self.model(**batch.inputs)).float(), self.order)
        if lookups != [shift.shape]:
            raise EditError(f"it looks its tokens up {len(lookups)} times, where an attack shifts one look-up")
        return found

    def uphill(
        self, batch: Batch, gradient: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch tokens width"]:
        size = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).clamp(min=_LEAST)
        return torch.where(self._free(batch)[..., None], gradient / size, 0.0)

    def within(
        self, batch: Batch, shift: Float[Tensor, "batch tokens width"], radius: float
    ) -> Float[Tensor, "batch tokens width"]:
        size = torch.linalg.vector_norm(shift, dim=-1, keepdim=True).clamp(min=_LEAST)
        return shift * (radius / size).clamp(max=1.0)

    @property
    def _table(self) -> nn.Module:
        table: nn.Module = self.model.get_input_embeddings()
        return table

    def _free(self, batch: Batch) -> Bool[Tensor, "batch tokens"]:
        ids = batch.inputs["input_ids"]
        special = torch.isin(ids, torch.tensor(sorted(self.special), dtype=ids.dtype))
        return batch.inputs["attention_mask"].bool() & ~special


@dataclass(frozen=True, kw_only=True)
class PixelSpace:
    """Every pixel within the same distance (L-infinity), in standard deviations of the split's pixels.

    None leaves the range of the split's pixels.
    """

    model: PreTrainedModel = field(repr=False)
    unit: float
    low: float
    high: float
    order: tuple[int, ...] | None = None

    @classmethod
    def over(cls, model: PreTrainedModel, examples: Examples, order: tuple[int, ...] | None = None) -> PixelSpace:
        """That of a split."""
        pixels = examples.inputs["pixel_values"]
        low, high = min(float(each.min()) for each in pixels), max(float(each.max()) for each in pixels)
        return cls(model=model, unit=deviation(examples), low=low, high=high, order=order)

    def still(self, batch: Batch) -> Float[Tensor, "batch channels height width"]:
        return torch.zeros_like(batch.inputs["pixel_values"])

    def logits(
        self, batch: Batch, shift: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        return _ordered(logits_in(self.model(pixel_values=self.moved(batch, shift))).float(), self.order)

    def moved(self, batch: Batch, shift: Float[Tensor, "batch channels height width"]) -> Tensor:
        """The pixels that are shown."""
        return batch.inputs["pixel_values"] + shift

    def uphill(
        self, batch: Batch, gradient: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return gradient.sign()

    def within(
        self, batch: Batch, shift: Float[Tensor, "batch channels height width"], radius: float
    ) -> Float[Tensor, "batch channels height width"]:
        pixels = batch.inputs["pixel_values"]
        shift = shift.clamp(-radius, radius)
        return torch.minimum(torch.maximum(shift, self.low - pixels), self.high - pixels)


def _ordered(logits: Float[Tensor, "batch classes"], order: tuple[int, ...] | None) -> Float[Tensor, "batch classes"]:
    return logits if order is None else logits[:, list(order)]


def deviation(examples: Examples) -> float:
    """The standard deviation of all pixels of a split."""
    pixels = examples.inputs["pixel_values"]
    count = sum(each.size for each in pixels)
    mean = sum(float(each.sum(dtype=np.float64)) for each in pixels) / count
    return float((sum(float(np.square(each - mean, dtype=np.float64).sum()) for each in pixels) / count) ** 0.5)


def special_tokens(tokenizer: Any) -> frozenset[int]:
    """The numbers of tokens that no text holds; one that stands for an unknown word stands for a word."""
    return frozenset(map(int, tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


@contextmanager
def _shifted(table: nn.Module, shift: Tensor) -> Iterator[list[torch.Size]]:
    """Inside it what ``table`` looks up is shifted; the list grows by the shape of each look-up."""
    lookups: list[torch.Size] = []

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        lookups.append(output.shape)
        return output + shift.to(output.dtype) if output.shape == shift.shape else output

    hook = table.register_forward_hook(add)
    try:
        yield lookups
    finally:
        hook.remove()
