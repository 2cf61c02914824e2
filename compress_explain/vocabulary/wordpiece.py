"""WordPiece: a word is read from the left, each time the longest piece that fits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class WordPiece:
    """The ``model`` of a tokenizer's JSON. A piece needs no other to be found."""

    document: dict[str, Any] = field(repr=False)

    @cached_property
    def ids(self) -> dict[str, int]:
        return dict(self.document["vocab"])

    @property
    def unknown(self) -> int | None:
        return self.ids.get(self.document["unk_token"])

    def letters(self, piece: str) -> str:
        """What of a text ``piece`` stands for: ``ing`` for ``##ing``."""
        inner = self.document["continuing_subword_prefix"]
        return piece[len(inner) :] if piece.startswith(inner) and piece != inner else piece

    def spelling(self, piece: str) -> list[str]:
        """The single characters that can stand for ``piece``: ``##ing`` is ``##i ##n ##g``."""
        inner, letters = self.document["continuing_subword_prefix"], self.letters(piece)
        first = letters[:1] if letters == piece else inner + letters[:1]
        return [first, *(inner + character for character in letters[1:])]

    def parts(self, piece: str) -> list[str]:
        return []

    def needed(self) -> list[str]:
        return []

    def reduced(self, new: dict[int, int]) -> dict[str, Any]:
        """The model of the pieces whose numbers are the keys of ``new``, with the numbers given there."""
        left = {piece: new[number] for piece, number in self.ids.items() if number in new}
        return {**self.document, "vocab": dict(sorted(left.items(), key=lambda each: each[1]))}
