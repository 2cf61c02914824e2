"""Markers of a text that slices and discovery may use: is there a negation, a digit, a question, a contrast?"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

# English; matched as whole words, whatever their case. "n't" stands at the end of a word, or alone in tokenized texts.
NEGATIONS = (
    "no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "nowhere", "without", "hardly", "barely",
    "scarcely", "cannot",
)  # fmt: skip
CONTRASTS = (
    "but", "however", "although", "though", "yet", "despite", "nevertheless", "nonetheless", "whereas", "while",
    "still", "except", "instead", "unfortunately",
)  # fmt: skip
COMPARISONS = ("more", "less", "most", "least", "better", "best", "worse", "worst", "than")


def _words(words: tuple[str, ...], ending: str = "") -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b{ending}", re.IGNORECASE)


# What is looked for, by the name of the marker. The last four know no language.
MARKERS: dict[str, re.Pattern[str]] = {
    "negation": _words(NEGATIONS, ending=r"|n['’]t\b"),
    "contrast": _words(CONTRASTS),
    "comparison": _words(COMPARISONS),
    "digits": re.compile(r"\d"),
    "question": re.compile(r"[?¿؟？]"),
    "exclamation": re.compile(r"[!¡！]"),
    "shouting": re.compile(r"\b[^\W\d_a-zß-öø-ÿ]{2,}\b"),
}


def markers(texts: Sequence[str]) -> dict[str, Bool[np.ndarray, " rows"] | Float[np.ndarray, " rows"]]:
    """Each marker of each text, and ``capitals``, the share of its letters that are.

    ``shouting`` is a word of two letters or more that are all capitals.

    >>> found = markers(["It isn't GOOD", "better than 3?"])
    >>> [name for name, flags in found.items() if flags[0]], [name for name, flags in found.items() if flags[1]]
    (['negation', 'shouting', 'capitals'], ['comparison', 'digits', 'question'])
    """
    found: dict[str, np.ndarray] = {
        name: np.array([_is_in(text, name, pattern) for text in texts], dtype=bool) for name, pattern in MARKERS.items()
    }
    return found | {"capitals": np.array([_capitals(text) for text in texts], dtype=np.float64)}


def _is_in(text: str, name: str, pattern: re.Pattern[str]) -> bool:
    if name == "shouting":
        return any(match.group().isupper() for match in pattern.finditer(text))
    return pattern.search(text) is not None


def _capitals(text: str) -> float:
    letters = [letter for letter in text if letter.isalpha()]
    return sum(map(str.isupper, letters)) / max(1, len(letters))
