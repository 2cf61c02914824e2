"""Questions and the texts that answer them: how rows hold them, and how two answers are compared."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from compress_explain.errors import InputError

START = "answer_start"  # the column of where an answer begins, beside one of answers that are texts


@dataclass(frozen=True)
class Answer:
    """A piece of a text, and the place of its first character there, counted from 0."""

    text: str
    start: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What questions are about, and all answers that are right; none where a question has no answer."""

    contexts: list[str] = field(repr=False)
    answers: list[tuple[Answer, ...]] = field(repr=False)


def asked(frame: pd.DataFrame, where: str, columns: tuple[str, str], empty: str) -> Asked:
    """The texts and answers of rows; ``columns`` are those of the texts and of the answers.

    A cell of answers holds what SQuAD's does: ``text`` and ``answer_start``, each a list. Or it is a text, and the
    column ``answer_start`` says where it begins. ``empty`` says whether questions without answer are to
    ``refuse`` or to ``allow``.

    Raises:
        InputError: a row without a text, an answer that is not where it is said
            to be, or none where there must be one.
    """
    if empty not in ("refuse", "allow"):
        raise InputError("data.empty_answers", empty, "unknown choice", "refuse or allow")
    context, answers = columns
    starts = frame[START] if START in frame.columns else [None] * len(frame)
    rows = []
    for row, (text, cell, start) in enumerate(zip(frame[context], frame[answers], starts, strict=True)):
        if not isinstance(text, str) or not text.strip():
            problem = f"row {row} has nothing in {context} to find an answer in"
            raise InputError(where, text, problem, "give a text, or remove the row")
        rows.append(tuple(_answers(cell, start, row, where, answers)))
        _check(rows[-1], text, row, where, empty)
    return Asked(contexts=[str(text) for text in frame[context]], answers=rows)


def flattened(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a question of a document as SQuAD has them, in which questions stand in the paragraphs of articles.

    >>> asks = {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
    >>> flattened({"data": [{"title": "A", "paragraphs": [{"context": "Ada wrote.", "qas": [asks]}]}]})[0]["answers"]
    {'text': ['Ada'], 'answer_start': [0]}
    """
    return [
        {
            "id": asks.get("id"), "title": article.get("title"), "context": paragraph["context"],
            "question": asks["question"],
            "answers": {name: [each[name] for each in asks["answers"]] for name in ("text", START)},
        }
        for article in document["data"] for paragraph in article["paragraphs"] for asks in paragraph["qas"]
    ]  # fmt: skip


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, one space between two words (Rajpurkar et al. 2016).

    >>> normalised("The  Eiffel-Tower, a tower.")
    'eiffeltower tower'
    """
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(found: str, right: Sequence[str]) -> float:
    """1 where an answer is one of those that are right, once normalised; else 0."""
    return float(any(normalised(found) == normalised(each) for each in right))


def token_f1(found: str, right: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of an answer's words, of the right answer that it suits best.

    >>> round(token_f1("in the city of Rome", ["Rome", "the city"]), 3)
    0.4
    """
    return max(_f1(normalised(found).split(), normalised(each).split()) for each in right)


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    return 2 * sum((Counter(found) & Counter(right)).values()) / (len(found) + len(right))


def _answers(cell: Any, start: Any, row: int, where: str, column: str) -> Iterator[Answer]:
    given = _parsed(cell)
    if isinstance(given, str):
        if _missing(start):
            problem = f"row {row} does not say where its answer begins"
            raise InputError(where, given[:80], problem, f"give the place of its first character in {START}")
        yield Answer(given, int(start))
    elif isinstance(given, Mapping) and {"text", START} <= given.keys():
        texts, places = _list(given["text"]), _list(given[START])
        if len(texts) != len(places):
            problem = f"row {row} of {column} has {len(texts)} answers and {len(places)} places of them"
            raise InputError(where, str(texts[:1])[:80], problem, f"give one {START} for each text")
        yield from (
            Answer(str(text), int(place)) for text, place in zip(texts, places, strict=True) if str(text).strip()
        )
    elif isinstance(given, list | np.ndarray):
        for each in given:
            yield from _answers(each, None, row, where, column)
    elif given is not None:
        problem = f"row {row} of {column} holds no answer"
        raise InputError(where, given, problem, f"give a text, with {START}, or a mapping with text and {START}")


def _parsed(cell: Any) -> Any:
    """A cell as it is, None where it is empty, and what it says where it is JSON."""
    if isinstance(cell, str) and cell.startswith("{"):
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return None if _missing(cell) or (isinstance(cell, str) and not cell.strip()) else cell


def _missing(cell: Any) -> bool:
    return cell is None or (pd.api.types.is_scalar(cell) and bool(pd.isna(cell)))


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def _check(answers: tuple[Answer, ...], context: str, row: int, where: str, empty: str) -> None:
    if not answers and empty == "refuse":
        raise InputError(
            where, context[:80], f"row {row} has no answer",
            "set data.empty_answers to allow if the model was trained on such questions, or remove the row",
        )  # fmt: skip
    for answer in answers:
        if answer.start < 0 or context[answer.start : answer.start + len(answer.text)] != answer.text:
            problem = f"row {row}: the text does not have this answer at character {answer.start}"
            raise InputError(where, answer.text[:80], problem, f"correct {START}, counted from 0, or remove the row")
