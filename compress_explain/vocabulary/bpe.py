"""Byte pair encoding: a word is spelled, then neighbours are merged, the earliest learned merge first.

A piece is only found if every merge on the way to it is still there. Within a word no merge ever
crosses the borders of a piece of the result, so a piece is made there as it is made of its own
letters alone: what it takes is found by merging those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from compress_explain.vocabulary.spelled import spelled


@dataclass(frozen=True)
class Bpe:
    """The ``model`` of a tokenizer's JSON."""

    document: dict[str, Any] = field(repr=False)

    @cached_property
    def ids(self) -> dict[str, int]:
        return dict(self.document["vocab"])

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        pairs = [
            tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in self.document["merges"]
        ]
        return {(left, right): rank for rank, (left, right) in enumerate(pairs)}

    @property
    def unknown(self) -> int | None:
        return self.ids.get(self.document.get("unk_token") or "")

    def spelling(self, piece: str) -> list[str]:
        return spelled(piece, self.ids, bytewise=bool(self.document.get("byte_fallback")))

    def parts(self, piece: str) -> list[str]:
        """Every piece that is made on the way from the letters of ``piece`` to it."""
        now, made = list(piece), list[str]()
        while len(now) > 1:
            ranked = [(self.ranks.get(pair), place) for place, pair in enumerate(pairwise(now))]
            open_pairs = [(rank, place) for rank, place in ranked if rank is not None]
            if not open_pairs:
                break
            _, place = min(open_pairs)
            now[place : place + 2] = [now[place] + now[place + 1]]
            made.append(now[place])
        return made

    def needed(self) -> list[str]:
        return []

    def reduced(self, new: dict[int, int]) -> dict[str, Any]:
        """The model of the pieces whose numbers are the keys of ``new``: those merges stay that make one of two of them."""
        left = {piece: new[number] for piece, number in self.ids.items() if number in new}
        merges = [list(pair) for pair in self.ranks if {*pair, "".join(pair)} <= left.keys()]
        return {**self.document, "vocab": dict(sorted(left.items(), key=lambda each: each[1])), "merges": merges}
