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

    def spelling(self, piece: str) -> list[str]:
        """The single characters that can stand for ``piece``: ``##ing`` is ``##i ##n ##g``."""
        inner = self.document["continuing_subword_prefix"]
        if piece.startswith(inner) and piece != inner:
            return [inner + character for character in piece[len(inner) :]]
        return [piece[:1], *(inner + character for character in piece[1:])]

    def parts(self, piece: str) -> list[str]:
        return []

    def needed(self) -> list[str]:
        return []

    def reduced(self, new: dict[int, int]) -> dict[str, Any]:
        """The model of the pieces whose numbers are the keys of ``new``, with the numbers given there."""
        left = {piece: new[number] for piece, number in self.ids.items() if number in new}
        return {**self.document, "vocab": dict(sorted(left.items(), key=lambda each: each[1]))}
