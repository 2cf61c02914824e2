"""The tokens of a text: how much each speaks for a class, and what is said without some.

What a token is shown as is swapped where the model looks its embedding up, while the model still reads its number: which token
is padding, which is the last and what stands where follow from numbers, and are to stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress_explain.data.examples import Batch, Examples
from compress_explain.errors import InputError
from compress_explain.signals.attribution.pieces import AT_ONCE, logits_ordered


def tokens_around(examples: Examples) -> frozenset[int]:
    """The tokens that begin or end every row of a split: they say nothing of any.

    >>> import numpy as np
    >>> rows = [np.array([2, 7, 8, 3]), np.array([2, 9, 3])]
    >>> ones = np.ones(2, dtype=bool)
    >>> split = Examples(name="", inputs={"input_ids": rows}, labels=np.zeros(2, int), slices={"all": ones}, texts=(), digest="")
    >>> sorted(tokens_around(split))
    [2, 3]
    """
    rows = examples.inputs["input_ids"]
    ends = [{int(row[place]) for row in rows} for place in (0, -1)]
    return frozenset[int]().union(*(each for each in ends if len(each) == 1))


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of a text. The baseline is the same row with the embedding of ``blank`` in the place of every free token.

    Tokens ``around``, of every row, are not free and stand in the baseline too.
    """

    model: PreTrainedModel = field(repr=False)
    blank: int
    around: frozenset[int]
    order: tuple[int, ...] | None = None

    def check(self, batch: Batch) -> None:
        """
        Raises:
            InputError: the model does not look each token up once, so that its answer is not that to what is shown instead.
        """
        lookups: list[torch.Size] = []
        hook = self._table.register_forward_hook(lambda module, inputs, output: lookups.append(output.shape[:2]))
        try:
            self.logits(batch)
        finally:
            hook.remove()
        if lookups != [batch.inputs["input_ids"].shape]:
            problem = f"looks its tokens up {len(lookups)} times, where an attribution needs one look-up"
            raise InputError("model", type(self.model).__name__, problem, "leave attribution out for it")

    def free(self, batch: Batch) -> Bool[Tensor, "batch pieces"]:
        ids = batch.inputs["input_ids"]
        special = torch.isin(ids, torch.tensor(sorted(self.around | {self.blank}), dtype=ids.dtype))
        mask = batch.inputs.get("attention_mask")
        return ~special if mask is None else mask.bool() & ~special

    def logits(
        self, batch: Batch, without: Bool[Tensor, "batch pieces"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        with torch.no_grad():
            if without is None:
                return logits_ordered(self.model, batch.inputs, self.order)
            shown = self._table(batch.inputs["input_ids"].masked_fill(without, self.blank))
            with _showing(self._table, shown):
                return logits_ordered(self.model, batch.inputs, self.order)

    def integrated_gradients(
        self, batch: Batch, classes: Int[Tensor, " batch"], steps: int
    ) -> Float[Tensor, "batch pieces"]:
        ids, others = self._apart(batch)
        found: Tensor = LayerIntegratedGradients(self._forward(batch), self._table).attribute(
            ids,
            baselines=ids.masked_fill(self.free(batch), self.blank),
            target=classes,
            additional_forward_args=others,
            n_steps=steps,
            internal_batch_size=max(AT_ONCE, len(ids)),
        )
        return found.detach().sum(-1).float()

    def input_x_gradient(self, batch: Batch, classes: Int[Tensor, " batch"]) -> Float[Tensor, "batch pieces"]:
        ids, others = self._apart(batch)
        method = LayerGradientXActivation(self._forward(batch), self._table)
        found: Tensor = method.attribute(ids, target=classes, additional_forward_args=others)
        return found.detach().sum(-1).float()

    @property
    def _table(self) -> nn.Module:
        table: nn.Module = self.model.get_input_embeddings()
        return table

    def _apart(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        return batch.inputs["input_ids"], tuple(batch.inputs[name] for name in self._others(batch))

    def _others(self, batch: Batch) -> list[str]:
        return [name for name in batch.inputs if name != "input_ids"]

    def _forward(self, batch: Batch) -> Callable[..., Tensor]:
        names = ["input_ids", *self._others(batch)]
        return lambda *values: logits_ordered(self.model, dict(zip(names, values, strict=True)), self.order)


@contextmanager
def _showing(table: nn.Module, shown: Float[Tensor, "batch tokens width"]) -> Iterator[None]:
    """Inside it every look-up in ``table`` gives ``shown``."""

    def swap(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return shown

    hook = table.register_forward_hook(swap)
    try:
        yield
    finally:
        hook.remove()
