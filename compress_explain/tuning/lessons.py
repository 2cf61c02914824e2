"""What is read while tuning: rows in a fixed order, altered anew whenever they come round, in batches of like length."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from compress_explain.data.encoding import cut
from compress_explain.data.examples import Examples
from compress_explain.data.sources import read_texts
from compress_explain.errors import InputError
from compress_explain.tuning.recipe import Recipe
from compress_explain.tuning.words import made_of
from compress_explain.vocabulary import Lexicon

Tokens = Float[Tensor, "tokens width"]
TheirTokens = Float[Tensor, "tokens whole"]  # wider where channels of the stream are gone


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A batch as the original reads it and as the compressed model does.

    ``alike`` are the rows that both read the same way, so that their states can be compared token by token.
    """

    theirs: dict[str, Tensor] = field(repr=False)
    ours: dict[str, Tensor] = field(repr=False)
    alike: Bool[Tensor, " batch"] = field(repr=False)

    def __len__(self) -> int:
        return len(self.alike)

    def states(
        self, ours: Float[Tensor, "batch ..."], theirs: Float[Tensor, "batch ..."]
    ) -> tuple[Tokens, TheirTokens]:
        """Of states ``(batch, tokens, width)``, those of real tokens in rows that both read the same way."""
        length = min(ours.shape[1], theirs.shape[1])  # beyond it the rows that are read alike have no tokens
        ours, theirs = ours[self.alike, :length], theirs[self.alike, :length]
        mask = self.ours.get("attention_mask")
        if mask is None or mask.shape[1] < length or mask[self.alike, :length].shape != ours.shape[:-1]:
            return ours.flatten(0, -2), theirs.flatten(0, -2)
        real = mask[self.alike, :length].bool()
        return ours[real], theirs[real]


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Portions of lessons made of ``pool``; the same numbers always give the same lessons.

    ``tokenizer`` cuts texts; None where rows are no texts, and so are never altered. ``read`` is how
    the compressed model reads rows that were cut so.
    """

    pool: Examples
    tokenizer: Any = field(repr=False)
    read: Callable[[Examples], Examples] = field(repr=False)
    augment: float
    batch_size: int
    seed: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows."""
        if self.tokenizer is None:
            return self.pool.digest
        return hashlib.sha256("\n".join(self.pool.texts).encode()).hexdigest()

    def portion(self, start: int, stop: int) -> list[Lesson]:
        """The lessons of rows ``start`` to ``stop`` of an endless walk through the pool, lengths in no order."""
        generator = np.random.default_rng((self.seed, start))
        theirs = self._rows(self._order(start, stop), generator)
        ours = self.read(theirs)
        batches = list(theirs.batches(self.batch_size))
        lessons = []
        for place in generator.permutation(len(batches)).tolist():
            rows = batches[place].rows
            read = ours.batch(rows).inputs
            lessons.append(Lesson(theirs=batches[place].inputs, ours=read, alike=_alike(theirs, ours, rows)))
        return lessons

    def _order(self, start: int, stop: int) -> Int[np.ndarray, " rows"]:
        """Every row of the pool once, then all again in another order."""
        size = len(self.pool)
        rounds = range(start // size, (stop - 1) // size + 1)
        walk = np.concatenate([np.random.default_rng((self.seed, each, 1)).permutation(size) for each in rounds])
        first = rounds[0] * size
        return walk[start - first : stop - first]

    def _rows(self, rows: Int[np.ndarray, " rows"], generator: np.random.Generator) -> Examples:
        if self.tokenizer is None:
            inputs = {name: [values[row] for row in rows] for name, values in self.pool.inputs.items()}
            return replace(self.pool, inputs=inputs, labels=np.zeros(len(rows), dtype=np.int64), slices={}, texts=())
        return _read_as(self.pool, made_of(self.pool.texts, rows.tolist(), self.augment, generator), self.tokenizer)


def lessons_for(recipe: Recipe, calibration: Examples, lexicon: Lexicon, *, words: bool, seed: int) -> Lessons:
    """What ``recipe`` says to read; texts that stand in validation or test are left out.

    ``words`` is whether rows are texts.

    Raises:
        InputError: the texts cannot be read, or the model reads none or predicts every token of them.
    """
    if calibration.tokenwise:
        raise InputError(
            "strategies: distill", calibration.name, "a language model cannot be tuned yet", "leave it out"
        )
    if not words and recipe.texts is not None:
        raise InputError(
            "strategies: distill.texts", recipe.texts, "the model reads no texts", "leave it out: calibration is used"
        )
    if not words:
        return Lessons(
            pool=calibration, tokenizer=None, read=_as_it_is, augment=0.0, batch_size=recipe.batch_size, seed=seed
        )
    more = calibration.texts
    if recipe.texts is not None:
        more = tuple(read_texts("strategies: distill.texts", recipe.texts, recipe.column))
    texts = [text for text in dict.fromkeys(more) if text not in lexicon.barred and text.strip()]
    if not texts:
        raise InputError(
            "strategies: distill.texts", recipe.texts, "every text stands in validation or test", "name other texts"
        )
    return Lessons(
        pool=replace(calibration, texts=tuple(texts), labels=np.zeros(len(texts), dtype=np.int64), slices={}),
        tokenizer=lexicon.tokenizer, read=lexicon.reader(), augment=recipe.augment, batch_size=recipe.batch_size, seed=seed,
    )  # fmt: skip


def _read_as(like: Examples, texts: Sequence[str], tokenizer: Any) -> Examples:
    inputs = cut(tokenizer, texts, like.max_length or tokenizer.model_max_length)
    labels = np.zeros(len(texts), dtype=np.int64)
    kept = {name: inputs[name] for name in like.inputs}
    return replace(like, inputs=kept, labels=labels, slices={}, texts=tuple(texts))


def _alike(theirs: Examples, ours: Examples, rows: Int[np.ndarray, " batch"]) -> Bool[Tensor, " batch"]:
    if theirs is ours:
        return torch.ones(len(rows), dtype=torch.bool)
    first, second = theirs.inputs["input_ids"], ours.inputs["input_ids"]
    return torch.tensor([np.array_equal(first[row], second[row]) for row in rows])


def _as_it_is(examples: Examples) -> Examples:
    return examples
