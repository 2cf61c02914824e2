"""Answers as spans of tokens: where in a row one can lie, which one two logits of each token choose, and its text.

A row holds a question and the text that answers it. A model gives each token a logit for being the
answer's first and one for being its last. Those are compared among the tokens of the text alone, and
where a question may be without answer, with the first token of the row, which then stands for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from compress_explain.data.questions import Answer, Asked
from compress_explain.errors import InputError

ELSEWHERE = (
    -1e4
)  # the logit of a token that no answer begins or ends at: its probability is 0, and differences stay finite
_AT_ONCE = 1024  # rows that are tokenized together
_CONTEXT = 1  # the second text of a pair


@dataclass(frozen=True, kw_only=True)
class Spans:
    """For each row the text, the characters of it that each token stands for, and the answers that are right.

    ``places`` are ``(tokens, 2)``, first character and the one after the last; (0, 0) of tokens that are not of
    the text. With ``empty`` there may be no answer, and the right one is then an empty text.
    Answers have at most ``longest`` tokens. ``width`` is that of the longest row of the split.
    """

    contexts: list[str] = field(repr=False)
    places: list[np.ndarray] = field(repr=False)
    answers: list[tuple[str, ...]] = field(repr=False)
    empty: bool
    longest: int
    width: int

    def of(self, rows: Int[np.ndarray, " chosen"]) -> Spans:
        """Those of some rows, as wide as before."""
        return replace(
            self,
            contexts=[self.contexts[row] for row in rows],
            places=[self.places[row] for row in rows],
            answers=[self.answers[row] for row in rows],
        )

    def facts(self) -> dict[str, Any]:
        """What else has to be known to choose an answer."""
        return {"empty": self.empty, "longest": self.longest}

    @cached_property
    def allowed(self) -> Bool[np.ndarray, "rows width"]:
        """The tokens at which an answer can begin or end."""
        flags = np.zeros((len(self.places), self.width), dtype=bool)
        for row, places in enumerate(self.places):
            flags[row, : len(places)] = places[:, 1] > places[:, 0]
        flags[:, 0] |= self.empty
        return flags

    def limited(
        self, logits: Float[Tensor, "batch bounds tokens"], rows: Int[np.ndarray, " batch"]
    ) -> Float[Tensor, "batch bounds width"]:
        """Logits of some rows, :data:`ELSEWHERE` where no answer can begin or end; differentiable."""
        allowed = torch.from_numpy(self.allowed[rows])[:, None].to(logits.device)
        wide = torch.nn.functional.pad(logits, (0, self.width - logits.shape[-1]))
        return wide.masked_fill(~allowed, ELSEWHERE)

    def found(self, logits: Float[np.ndarray, "bounds_of_all_rows width"]) -> list[str]:
        """The answer of every row to its start and end logits, in turns."""
        return [self.text(row, *self.chosen(row, *logits[2 * row : 2 * row + 2])) for row in range(len(self.places))]

    def chosen(self, row: int, start: Float[np.ndarray, " width"], end: Float[np.ndarray, " width"]) -> tuple[int, int]:
        """The first and the last token of the answer that has the largest sum of logits; (0, 0) where that is none."""
        inside = np.flatnonzero(self.places[row][:, 1] > self.places[row][:, 0])
        first, last = start[inside], np.pad(end[inside], (0, self.longest - 1), constant_values=-np.inf)
        sums = first[:, None] + np.lib.stride_tricks.sliding_window_view(last, self.longest)
        place, further = np.unravel_index(int(sums.argmax()), sums.shape)
        if self.empty and start[0] + end[0] > sums[place, further]:
            return 0, 0
        return int(inside[place]), int(inside[place + further])

    def text(self, row: int, first: int, last: int) -> str:
        """What stands there."""
        start, end = self.characters(row, first, last)
        return self.contexts[row][start:end]

    def characters(self, row: int, first: int, last: int) -> tuple[int, int]:
        """The first character of a span and the one after the last, without spaces around; (0, 0) of none."""
        start, end = int(self.places[row][first, 0]), int(self.places[row][last, 1])
        piece = self.contexts[row][start:end]
        return end - len(piece.lstrip()), start + len(piece.rstrip())


@dataclass(frozen=True, kw_only=True)
class Located:
    """Rows as a model reads them, by model argument; ``bounds`` holds for each the first and last token of its answer.

    ``reached`` are the rows whose answer is among the tokens, and all else is of those; ``longer`` those that did not fit.
    """

    inputs: dict[str, list[np.ndarray]]
    bounds: list[np.ndarray]
    spans: Spans
    reached: Int[np.ndarray, " reached"]
    longer: list[int]


def locate(
    tokenizer: Any, questions: Sequence[str], asked: Asked, limit: int, *, empty: bool, longest: int, where: str
) -> Located:
    """Questions and their texts, the latter cut so that both have at most ``limit`` tokens, and where answers are.

    Of several answers that are right the first that was not cut away is the one that logits are compared with.

    Raises:
        InputError: the tokenizer cannot say which token is of which text, or a question leaves no room for one.
    """
    inputs: dict[str, list[np.ndarray]] = {}
    places: list[np.ndarray] = []
    longer: list[int] = []
    for start in range(0, len(questions), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        texts = list(questions[here]), asked.contexts[here]
        _refuse_wordy(tokenizer, texts, start, limit, where)
        whole = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        longer += [row for row, ids in enumerate(whole, start) if len(ids) > limit]
        encoded = tokenizer(*texts, truncation="only_second", max_length=limit, return_offsets_mapping=True)
        for index, offsets in enumerate(encoded.pop("offset_mapping")):
            second = np.array([owner == _CONTEXT for owner in encoded.sequence_ids(index)])
            places.append(np.where(second[:, None], np.array(offsets), 0))
        for key, rows in encoded.items():
            inputs.setdefault(key, []).extend(np.asarray(row, dtype=np.int64) for row in rows)
    bounds = [_bounds(each, answers) for each, answers in zip(places, asked.answers, strict=True)]
    reached = np.array([row for row, found in enumerate(bounds) if found is not None], dtype=np.int64)
    spans = Spans(
        contexts=asked.contexts, places=places, empty=empty, longest=longest, width=max(map(len, places)),
        answers=[tuple(answer.text for answer in answers) or ("",) for answers in asked.answers],
    )  # fmt: skip
    return Located(
        inputs={key: [rows[row] for row in reached] for key, rows in inputs.items()},
        bounds=[found for found in bounds if found is not None],
        spans=spans.of(reached),
        reached=reached,
        longer=longer,
    )


def _refuse_wordy(tokenizer: Any, texts: tuple[list[str], list[str]], start: int, limit: int, where: str) -> None:
    """A question that leaves no token for its text could not be asked."""
    if not tokenizer.is_fast:
        name = type(tokenizer).__name__
        raise InputError("model", name, "cannot say which token is of which text", "save a fast tokenizer beside it")
    around = tokenizer.num_special_tokens_to_add(pair=True)
    for row, ids in enumerate(tokenizer(texts[0], add_special_tokens=False, verbose=False)["input_ids"], start):
        if len(ids) + around >= limit:
            problem = f"the question of row {row} has {len(ids)} tokens, which leaves none of {limit} for its text"
            raise InputError(where, texts[0][row - start][:80], problem, "shorten it, or raise data.max_length")


def _bounds(places: Int[np.ndarray, "tokens two"], answers: Sequence[Answer]) -> Int[np.ndarray, " two"] | None:
    """The first and last token of the first answer that lies among the tokens; the first token twice where there is none to find."""
    inside = np.flatnonzero(places[:, 1] > places[:, 0])
    if not answers and len(inside):
        return np.zeros(2, dtype=np.int64)
    for answer in answers:
        begins = inside[places[inside, 1] > answer.start]
        ends = inside[places[inside, 1] >= answer.start + len(answer.text)]
        if len(begins) and len(ends):
            return np.array([begins[0], ends[0]])
    return None
