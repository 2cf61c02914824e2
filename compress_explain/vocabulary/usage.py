"""How often the tokens of a vocabulary are used, and how much of a new text is none of those seen."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from compress_explain.vocabulary.pieces import Flags, Pieces


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How often each row was read in ``texts`` different texts of ``tokens`` tokens in all.

    ``barred`` texts stand in validation or test and were not counted.
    """

    counts: Int[np.ndarray, " rows"] = field(repr=False)
    texts: int
    barred: int

    @property
    def tokens(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which rows stay when tokens must be used ``least`` times, and what of a new text that will touch.

    Rows before ``first`` stay in any case.

    What a sample never shows is still met: the types that it shows once make up as large a share of
    it as those that it does not show will of the next text (Good 1953, Biometrika 40). So with the
    types that would go as well were one use more asked for (``stricter`` is what would then stay)
    the sample rehearses what a new text will meet.
    """

    usage: Usage
    stay: Flags = field(repr=False)
    stricter: Flags = field(repr=False)
    first: int = 0

    @property
    def unseen_share(self) -> float:
        """The share of a new text's tokens that are expected to be among those that go, in [0, 1]."""
        return float(self.usage.counts[~self.stricter].sum() / max(1, self.usage.tokens))

    def weights(self, going: Int[np.ndarray, " going"]) -> Float[np.ndarray, " going"]:
        """Of all that is expected of those that go, the share of each; Good's r* = (r + 1) N(r + 1) / N(r)."""
        used = self.usage.counts[going]
        longest = int(used.max(initial=0)) + 2
        sizes = np.bincount(self.usage.counts[~self.stricter], minlength=longest)
        expected = sizes[used + 1] * (used + 1) / np.maximum(np.bincount(used, minlength=longest)[used], 1)
        return expected / expected.sum() if expected.sum() > 0 else np.full(len(going), 1 / max(1, len(going)))


def choose(pieces: Pieces, usage: Usage, least: int, needed: Flags, keep: int = 0) -> Choice:
    """What stays of ``pieces`` when a token must be used ``least`` times; ``needed`` rows stay in any case.

    Where fewer than ``keep`` would, the first pieces of the tokenizer stay too, as many as that takes:
    tokenizers number common pieces before rare ones, and so know more of the language than the texts counted do.
    """

    def staying(uses: int, first: int) -> Flags:
        early = pieces.met & (np.arange(pieces.rows) < first)
        return pieces.whole(needed | (usage.counts >= uses) | early) | needed

    rows = range(pieces.rows if keep else 0)
    first = bisect_left(rows, keep, key=lambda count: int(staying(least, count).sum()))
    stay, stricter = (staying(least + more, first) for more in (0, 1))
    return Choice(usage=usage, stay=stay, stricter=stricter, first=first)
