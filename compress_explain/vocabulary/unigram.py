"""Unigram: of all ways to cut a word, the most probable; every piece has a log-probability of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from compress_explain.vocabulary.spelled import spelled


@dataclass(frozen=True)
class Unigram:
    """The ``model`` of a tokenizer's JSON. The scores of what stays are left as they are."""

    document: dict[str, Any] = field(repr=False)

    @cached_property
    def ids(self) -> dict[str, int]:
        return {piece: number for number, (piece, _) in enumerate(self.document["vocab"])}

    @property
    def unknown(self) -> int | None:
        number: int | None = self.document.get("unk_id")
        return number

    def spelling(self, piece: str) -> list[str]:
        return spelled(piece, self.ids, bytewise=bool(self.document.get("byte_fallback")))

    def parts(self, piece: str) -> list[str]:
        return []

    def needed(self) -> list[str]:
        """The least probable piece: what an unknown character costs is measured from it."""
        return [min(self.document["vocab"], key=lambda each: each[1])[0]]

    def reduced(self, new: dict[int, int]) -> dict[str, Any]:
        """The model of the pieces whose numbers are the keys of ``new``, in the order given there."""
        left = [each for number, each in enumerate(self.document["vocab"]) if number in new]
        unknown = None if self.unknown is None else new[self.unknown]
        return {**self.document, "vocab": left, "unk_id": unknown}
