"""Texts as people spoil them without meaning anything else: slips, capitals, marks, spaces, look-alike letters.

Each way takes a text, a strength whose unit it documents, and a generator. What a row becomes depends on the seed,
its number and the name of the way alone: every model is given the same, and so is a later run.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from compress_explain.robustness.keys import LOOK_ALIKES, NEIGHBOURS

Change = Callable[[str, float, np.random.Generator], str]
_DROPPED, _ADDED = re.compile(r"(?<!\w)[.,;:!?]|[.,;:!?](?!\w)"), (",", ".", ";", ":")
_GAP = re.compile(r"[ \t]+")
_WIDE = ("  ", "\t", "   ")
_NEW_MARK = 0.25  # as often as a mark goes, a gap between words gets one


@dataclass(frozen=True, kw_only=True)
class TextChange:
    """One way to change a text; ``usual`` is its strength, in the ``unit`` that it documents, and ``most`` where more means nothing.

    One that does not keep what is ``right`` for certain does not count in means.
    """

    name: str
    usual: float
    unit: str
    change: Change = field(repr=False)
    most: float = 1.0
    right: bool = True

    def of(self, texts: Sequence[str], rows: Sequence[int], strength: float, seed: int) -> list[str]:
        """``texts``, which stand in ``rows`` of their split, changed. Strength 0 changes nothing."""
        return [
            self.change(text, strength, generator_of(self.name, int(row), seed))
            for text, row in zip(texts, rows, strict=True)
        ]


def generator_of(name: str, row: int, seed: int) -> np.random.Generator:
    """The draws of one row under one way of changing it."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed, row])


def slips(text: str, strength: float, generator: np.random.Generator) -> str:
    """Slips of the fingers, one for a share ``strength`` of the letters, rounded up.

    A neighbouring key instead of the right one, or besides it; a letter left out; two in the wrong order.
    """
    letters = [place for place, letter in enumerate(text) if letter.lower() in NEIGHBOURS]
    count = min(len(letters), math.ceil(strength * len(letters) - 1e-9))
    written = list(text)
    # from the back, so that places in front stay what they are
    for place in sorted(generator.choice(letters, count, replace=False).tolist() if count else (), reverse=True):
        written[place : place + 2] = _slip("".join(written[place : place + 2]), int(generator.integers(4)), generator)
    return "".join(written)


def _slip(pair: str, way: int, generator: np.random.Generator) -> str:
    """A letter and what stands after it, written wrongly."""
    letter, after = pair[0], pair[1:]
    key = str(generator.choice(list(NEIGHBOURS[letter.lower()])))
    key = key.upper() if letter.isupper() else key
    if way == 3 and after.isalpha() and after != letter:
        return after + letter
    return (key + after, letter + key + after, after, key + after)[way]


def capitals(text: str, strength: float, generator: np.random.Generator) -> str:
    """Words in capitals, each with the chance ``strength``."""
    words = re.split(r"(\s+)", text)
    shouted = generator.random(len(words)) < strength
    return "".join(_shouted(word) if loud else word for word, loud in zip(words, shouted, strict=True))


def _shouted(word: str) -> str:
    return "".join(letter.upper() if len(letter.upper()) == 1 else letter for letter in word)


def mixed_case(text: str, strength: float, generator: np.random.Generator) -> str:
    """Letters in the other case, each with the chance ``strength``."""
    turned = generator.random(len(text)) < strength
    return "".join(
        letter.swapcase() if turn and len(letter.swapcase()) == 1 else letter
        for letter, turn in zip(text, turned, strict=True)
    )


def marks(text: str, strength: float, generator: np.random.Generator) -> str:
    """Punctuation left out, each mark with the chance ``strength``, and set where none was, a quarter as often a gap.

    Marks inside of numbers and words stay, and no exclamation or question is added.
    """
    fewer = _DROPPED.sub(lambda found: "" if generator.random() < strength else found.group(), text)
    return _GAP.sub(
        lambda found: (
            str(generator.choice(_ADDED)) + found.group()
            if generator.random() < _NEW_MARK * strength and fewer[: found.start()][-1:].isalnum()
            else found.group()
        ),
        fewer if fewer.strip() else text,
    )


def spaces(text: str, strength: float, generator: np.random.Generator) -> str:
    """Gaps between words, each changed with the chance ``strength``: widened, a tab, or closed where a mark stands."""

    def gap(found: re.Match[str]) -> str:
        if generator.random() >= strength:
            return found.group()
        beside = text[found.start() - 1 : found.start()] + text[found.end() : found.end() + 1]
        if any(not letter.isalnum() for letter in beside) and generator.random() < 0.5:
            return ""
        return str(generator.choice(_WIDE))

    return _GAP.sub(gap, text)


def look_alikes(text: str, strength: float, generator: np.random.Generator) -> str:
    """Letters of another alphabet that look the same, for a share ``strength`` of the letters that have one, rounded up."""
    places = [place for place, letter in enumerate(text) if letter in LOOK_ALIKES]
    count = min(len(places), math.ceil(strength * len(places) - 1e-9))
    written = list(text)
    for place in generator.choice(places, count, replace=False).tolist() if count else ():
        written[place] = LOOK_ALIKES[written[place]]
    return "".join(written)


def fewer_words(text: str, strength: float, generator: np.random.Generator) -> str:
    """Words left out, each with the chance ``strength``, but never all of them.

    The word that goes may be the one that tells: of these changes it alone may change what is right.
    """
    words = text.split()
    stay = generator.random(len(words)) >= strength
    if words and not stay.any():
        stay[int(generator.integers(len(words)))] = True
    return text if stay.all() else " ".join(word for word, kept in zip(words, stay, strict=True) if kept)


_CHANGES = (
    TextChange(name="typos", usual=0.05, unit="share of letters", change=slips),
    TextChange(name="case", usual=1.0, unit="share of words", change=capitals),
    TextChange(name="punctuation", usual=0.5, unit="share of marks", change=marks),
    TextChange(name="spaces", usual=0.3, unit="share of gaps", change=spaces),
    TextChange(name="lookalikes", usual=0.05, unit="share of letters", change=look_alikes),
    TextChange(name="mixed_case", usual=0.3, unit="share of letters", change=mixed_case),
    TextChange(name="word_drop", usual=0.1, unit="share of words", change=fewer_words, right=False),
)
TEXT_CHANGES: Mapping[str, TextChange] = MappingProxyType({each.name: each for each in _CHANGES})
USUAL_TEXT_CHANGES = ("typos", "case", "punctuation", "spaces", "lookalikes")
