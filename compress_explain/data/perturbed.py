"""Texts that a model has not seen: those of a split, cropped, thinned or spliced.

A classifier is sure of itself on the sentences that it was trained on and keeps its answers there
whatever is done to it. What a refit does to new texts shows on these instead: minilm-sst2 gives 1.2%
of its training sentences less than .9 to their class, 6.4% of new ones, and 7.6% of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import numpy as np
from jaxtyping import Int

from compress_explain.data.examples import Examples

_LEAST, _MOST = 0.3, 0.8  # of a row that a crop or the first part of a splice keeps
_THINNED = (0.1, 0.4)  # of its tokens that a thinned row loses


def perturbed(examples: Examples, seed: int = 0) -> Examples:
    """Each row of a classifier's texts made into another; other examples come back as they are.

    A third of the rows are cropped to a piece, a third lose tokens here and there, a third continue as
    another row. Tokens that every row has, such as the one it is classified at, stay. Labels are those
    of the rows that these were made from, and may not suit them.
    """
    if examples.tokenwise or not _of_tokens_alone(examples):
        return examples
    rng = np.random.default_rng(seed)
    rows = _Rows(rng=rng, fixed=_fixed(examples.inputs["input_ids"]))
    made = [_WAYS[rng.integers(len(_WAYS))](rows, row) for row in range(len(examples))]
    inputs = {
        name: [np.concatenate([values[row][kept] for row, kept in pieces]) for pieces in made]
        for name, values in examples.inputs.items()
    }
    digest = hashlib.sha256(f"{examples.digest} perturbed {seed}".encode()).hexdigest()
    return replace(examples, inputs=inputs, texts=(), digest=digest)


Pieces = list[tuple[int, np.ndarray]]  # of which row, and which of its tokens


@dataclass(frozen=True)
class _Rows:
    """By row, flags of the tokens that every row has."""

    rng: np.random.Generator
    fixed: list[np.ndarray] = field(repr=False)

    @cached_property
    def longest(self) -> int:
        return max(map(len, self.fixed))

    def with_fixed(self, row: int, free: Int[np.ndarray, " tokens"]) -> Pieces:
        """These tokens of a row, and those that stay."""
        kept = self.fixed[row].copy()
        kept[free] = True
        return [(row, kept.nonzero()[0])]

    def free(self, row: int) -> Int[np.ndarray, " tokens"]:
        return (~self.fixed[row]).nonzero()[0]


def _of_tokens_alone(examples: Examples) -> bool:
    """Whether every input of the model is one number a token."""
    tokens = examples.inputs.get("input_ids", [])
    shapes = [[row.shape for row in values] for values in examples.inputs.values()]
    return len(tokens) > 0 and all(each == [row.shape for row in tokens] for each in shapes)


def _fixed(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    everywhere = reduce(np.intersect1d, rows)
    return [np.isin(row, everywhere) for row in rows]


def _cropped(rows: _Rows, row: int) -> Pieces:
    free = rows.free(row)
    length = max(1, round(len(free) * rows.rng.uniform(_LEAST, _MOST)))
    start = int(rows.rng.integers(max(1, len(free) - length + 1)))
    return rows.with_fixed(row, free[start : start + length])


def _thinned(rows: _Rows, row: int) -> Pieces:
    free = rows.free(row)
    kept = free[rows.rng.random(len(free)) > rows.rng.uniform(*_THINNED)]
    return rows.with_fixed(row, kept if len(kept) else free)


def _spliced(rows: _Rows, row: int) -> Pieces:
    """The first part of a row and the last of another, unless that is too long or has too few of what stays."""
    other = int(rows.rng.integers(len(rows.fixed)))
    first = np.arange(round(len(rows.fixed[row]) * rows.rng.uniform(_LEAST, _MOST)))
    last = np.arange(round(len(rows.fixed[other]) * rows.rng.uniform(1 - _MOST, 1 - _LEAST)), len(rows.fixed[other]))
    stay = rows.fixed[row][first].sum() + rows.fixed[other][last].sum()
    if len(first) + len(last) > rows.longest or stay != rows.fixed[row].sum():
        return _thinned(rows, row)
    return [(row, first), (other, last)]


_WAYS: tuple[Callable[[_Rows, int], Pieces], ...] = (_cropped, _thinned, _spliced)
