"""New texts made of given ones, so that a model is asked about more than it knows by heart.

A part of one text, parts of two after one another, words left out or exchanged for others of the same
texts. None of them needs a label: whatever the original says of them is what is to be learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LOOSE = 0.15  # of the words of a text that is loosened, on average: left out or exchanged


def made_of(texts: Sequence[str], rows: Sequence[int], share: float, generator: np.random.Generator) -> list[str]:
    """The texts ``rows``, a ``share`` of them, in [0, 1], altered. Words are what white space divides."""
    return [_altered(texts, row, generator) if generator.random() < share else texts[row] for row in rows]


def _altered(texts: Sequence[str], row: int, generator: np.random.Generator) -> str:
    words = texts[row].split()
    way = generator.integers(4)
    if way == 0:
        words = _part(words, generator)
    elif way == 1:
        words = _part(words, generator) + _part(_any(texts, generator), generator)
    if way != 0:
        words = _loosened(words, texts, generator)
    return " ".join(words) or texts[row]


def _any(texts: Sequence[str], generator: np.random.Generator) -> list[str]:
    return texts[int(generator.integers(len(texts)))].split()


def _part(words: list[str], generator: np.random.Generator) -> list[str]:
    """Words that stand together, between a quarter of them and all."""
    length = max(1, round(len(words) * generator.uniform(0.25, 1.0)))
    start = int(generator.integers(max(1, len(words) - length + 1)))
    return words[start : start + length]


def _loosened(words: list[str], texts: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Some words left out, as many exchanged for words drawn from the texts."""
    kept = list[str]()
    for word, chance in zip(words, generator.random(len(words)), strict=True):
        if chance < _LOOSE / 2:
            continue
        others = _any(texts, generator) if chance < _LOOSE else []
        kept.append(str(generator.choice(others)) if others else word)
    return kept
