"""Words and their tags: how rows hold them, and which token of a word answers for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from compress_explain.errors import InputError

_AT_ONCE = 1024  # rows that are tokenized together
NOTHING = -1  # the tag of a token that nothing is decided on


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Rows of words as a model reads them, by model argument; ``ids`` and ``places`` as in :class:`~.examples.Tags`.

    ``longer`` are the rows that did not fit.
    """

    inputs: dict[str, list[np.ndarray]]
    ids: list[np.ndarray]
    places: list[np.ndarray]
    longer: list[int]


def as_text(cells: pd.Series, where: str) -> pd.Series:
    """Rows of words, each a list of words or a text, as texts with one space between two words.

    Raises:
        InputError: a row that is neither, or a word with a space in it.
    """
    return pd.Series([_text(cell, row, where, cells.name) for row, cell in enumerate(cells)], index=cells.index)


def tag_numbers(
    frame: pd.DataFrame, where: str, columns: tuple[str, str], names: Mapping[int, str]
) -> list[np.ndarray]:
    """For each row the class of each of its words; ``columns`` are those of the words, as text, and of the tags.

    Raises:
        InputError: a row without words or tags, with fewer tags than words or more, or with a tag that the
            model does not know; or all words have the same tag.
    """
    words, tags = columns
    numbers = {name.lower(): index for index, name in names.items()}
    rows = []
    for row, (text, cell) in enumerate(zip(frame[words], frame[tags], strict=True)):
        given = _cells(cell)
        if given is None or not text:
            column, value = (words, text) if given is not None else (tags, cell)
            raise InputError(
                where, value, f"row {row} has nothing in {column}", "give one tag a word, or remove the row"
            )
        count = len(text.split(" "))
        if len(given) != count:
            problem = f"row {row} has {count} words and {len(given)} tags"
            raise InputError(where, text[:80], problem, f"give one in {tags} for each in {words}")
        rows.append(np.array([_number(tag, where, row, numbers, names) for tag in given], dtype=np.int64))
    if len(np.unique(np.concatenate(rows))) < 2:
        raise InputError(where, names[int(rows[0][0])], "all words have one and the same tag", "give rows with several")
    return rows


def align(tokenizer: Any, texts: Sequence[str], tags: Sequence[np.ndarray], limit: int) -> Aligned:
    """Cut rows of words to at most ``limit`` tokens; of each word the first token answers for it.

    A word that becomes no token, or was cut off, is not decided on.

    Raises:
        InputError: the tokenizer cannot say which token is of which word.
    """
    made = Aligned(inputs={}, ids=[], places=[], longer=[])
    for start in range(0, len(texts), _AT_ONCE):
        words = [text.split(" ") for text in texts[start : start + _AT_ONCE]]
        whole = _tokenized(tokenizer, words)
        made.longer.extend(row for row, ids in enumerate(whole["input_ids"], start) if len(ids) > limit)
        encoded = _tokenized(tokenizer, words, limit)
        for key, rows in encoded.items():
            made.inputs.setdefault(key, []).extend(np.asarray(row, dtype=np.int64) for row in rows)
        for index in range(len(words)):
            owners = np.array([NOTHING if word is None else word for word in encoded.word_ids(index)])
            seen, first = np.unique(owners, return_index=True)
            ids = np.full(len(owners), NOTHING)
            ids[first[seen >= 0]] = tags[start + index][seen[seen >= 0]]
            made.ids.append(ids)
            made.places.append(seen[seen >= 0])
    return made


def _tokenized(tokenizer: Any, words: list[list[str]], limit: int | None = None) -> Any:
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise InputError("model", name, "cannot say which token is of which word", "save a fast tokenizer beside it")
    try:
        return tokenizer(words, is_split_into_words=True, truncation=limit is not None, max_length=limit, verbose=False)
    except AssertionError as error:  # byte-level tokenizers that put no space before the first word
        problem = f"cannot read words one by one ({str(error).splitlines()[0][:120]})"
        raise InputError("model", name, problem, "save the tokenizer with add_prefix_space=True") from None


def _text(cell: Any, row: int, where: str, column: Any) -> str:
    if isinstance(cell, str):
        return " ".join(cell.split())
    given = _cells(cell)
    if given is None or not all(isinstance(word, str) for word in given):
        raise InputError(where, cell, f"row {row} of {column} holds no words", "give a list of words, or a text")
    for word in given:
        if " " in word:
            raise InputError(
                where, word, f"row {row} of {column} has a word with a space in it", "split it, with its tag"
            )
    return " ".join(given)


def _cells(cell: Any) -> list[Any] | None:
    """The parts of a row: of a list, or of a text with spaces; None for anything else or nothing."""
    if isinstance(cell, str):
        return cell.split() or None
    if isinstance(cell, list | tuple | np.ndarray):
        return list(cell) or None
    return None


def _number(tag: Any, where: str, row: int, numbers: Mapping[str, int], names: Mapping[int, str]) -> int:
    number = int(tag) if isinstance(tag, int | np.integer) else numbers.get(str(tag).lower(), NOTHING)
    if number not in names:
        known = ", ".join(f"{index} ({name})" for index, name in list(names.items())[:10])
        raise InputError(where, tag, f"the model knows no such tag (row {row})", f"its tags are {known}")
    return number
