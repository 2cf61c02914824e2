"""Remove the rows of tokens that the data never uses, and make the tokenizer spell them with shorter ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from compress_explain.data.examples import ALL
from compress_explain.data.sources import SUFFIXES
from compress_explain.editing.edits import Edit
from compress_explain.errors import InputError
from compress_explain.model.embedding import TOKEN, TOKENS
from compress_explain.plugins.strategy import Situation
from compress_explain.vocabulary import Choice, Lexicon


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Remove every token that calibration uses fewer than ``least`` times, at least 1.

    ``texts`` names more texts to count on, without labels: a CSV, JSONL or Parquet file and its
    ``column``, or a ``.txt`` file with a text on each line. What stays in any case: special and added
    tokens, single characters or bytes, so that every text can still be spelled, and what the
    tokenizer makes on the way to a token that stays; and with ``keep``, where fewer rows than that would stay, as
    many of the tokenizer's first as it takes: it numbers common pieces before rare ones. A word whose token went
    is read as shorter pieces. How many of a new text's tokens that will be is estimated (Good-Turing) and what it does
    rehearsed on calibration with the tokens that are used ``least`` times as if they had gone too.

    The order of the plan is that in which tokens are least likely to be met.
    """

    least: int = 1
    keep: int = 0
    texts: str | None = None
    column: str = "text"

    @property
    def kinds(self) -> tuple[str, ...]:
        return (TOKEN,)

    @property
    def rounds(self) -> int:
        return 1

    def __post_init__(self) -> None:
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise InputError("strategies: vocabulary.least", self.least, "not a whole number of 1 or more", "try 1")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 0:
            raise InputError("strategies: vocabulary.keep", self.keep, "not a whole number of rows", "try 20000")
        path = None if self.texts is None else Path(self.texts)
        if path is not None and path.suffix in (".txt", *SUFFIXES) and not path.exists():
            remedy = f"check the path (from {Path.cwd()})"
            raise InputError("strategies: vocabulary.texts", self.texts, "no such file", remedy)

    def plan(self, situation: Situation) -> tuple[Edit, ...]:
        """The removals, with what is expected of all of them together shared out by how likely each is to be met.

        Raises:
            InputError: the model or its tokenizer cannot do with fewer tokens, or ``texts`` cannot be read.
        """
        lexicon = situation.lexicon
        if lexicon is None:
            raise InputError("strategies: vocabulary", None, "nothing is known of the tokens here", "run a whole job")
        choice = lexicon.choose(lexicon.usage(self.texts, self.column), self.least, self.keep)
        going = lexicon.going(choice)
        if not len(going):
            return ()
        whole = lexicon.rehearse(choice).expected[ALL].loss_change
        return tuple(_edits(lexicon, choice, going, whole))


def _edits(lexicon: Lexicon, choice: Choice, going: Int[np.ndarray, " going"], whole: float) -> Iterator[Edit]:
    """One removal a row; together they are expected to change the loss by ``whole``."""
    embedding = lexicon.masks.anatomy.embedding
    assert embedding is not None, "a lexicon is of a model that has one"
    names, usage = lexicon.pieces.names, choice.usage
    named = np.array([names[row] is not None for row in going])
    expected = np.zeros(len(going))
    expected[named] = whole * choice.weights(going[named])
    for row, loss in zip(going.tolist(), expected.tolist(), strict=True):
        yield Edit(
            component=f"{TOKENS}.{row}",
            kind=TOKEN,
            action="remove",
            reason=_reason(names[row], int(usage.counts[row]), choice),
            expected_loss_change=loss,
            parameters_saved=embedding.parameters,
            flops_saved=0,
        )


def _reason(name: str | None, used: int, choice: Choice) -> str:
    if name is None:
        return "no token of the tokenizer has this row"
    often = {0: "never used", 1: "used once"}.get(used, f"used {used} times")
    share = f"{choice.unseen_share:.2%}"
    return f"{name!r} is {often} in {choice.usage.texts:,} texts; what goes is expected to be {share} of a new text's tokens"
