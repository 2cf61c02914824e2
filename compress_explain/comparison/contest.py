"""Both models of a comparison at hand, ready to run: for what stored predictions cannot tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from compress_explain.comparison.decided import Forward
from compress_explain.comparison.predictions import Pairs
from compress_explain.data.examples import Examples


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two models.

    ``forward`` is the model as it is deployed: a batch of inputs in, logits out. ``examples`` is the split as this model
    reads it, with its own ``processor`` (a tokenizer or an image processor). ``module`` is the model in torch, for gradients and
    counted FLOPs; None where only a file of another runtime is at hand. ``path`` is the file or folder that it lies in on disk; None where
    nothing does. ``order`` says which of the module's classes stands for each of the original's, where those stand in another order;
    ``forward`` gives them in the original's. ``learning`` are other rows as this model reads them, that whoever looks into it may learn from;
    None where there are none.
    """

    name: Literal["original", "compressed"]
    forward: Forward = field(repr=False)
    examples: Examples = field(repr=False)
    processor: Any = field(repr=False)
    module: PreTrainedModel | None = field(default=None, repr=False)
    path: Path | None = None
    form: str = "torch"
    order: tuple[int, ...] | None = None
    learning: Examples | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The original and what was made of it, on the same rows of one split; ``pairs`` is what both decided on them."""

    original: Side
    compressed: Side
    pairs: Pairs = field(repr=False)
    batch_size: int = 32
    threads: int = 1

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.original, self.compressed
