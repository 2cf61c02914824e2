"""What probes are asked to read off a model's states: the task's answer, the original's decision, what slices say of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from compress_explain.comparison.decided import right_answers
from compress_explain.data.examples import ALL, Examples

TASK, DECISION, QUALITY, ATTRIBUTE = "task", "decision", "quality", "attribute."
_COMMONEST = 10  # classes that are told apart; all others are one


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question: ``answers`` is the number of the class of each decision."""

    signal: str
    answers: Int[np.ndarray, " n"] = field(repr=False)

    @property
    def classes(self) -> int:
        return int(self.answers.max()) + 1

    def least(self, decisions: Int[np.ndarray, " some"]) -> int:
        """How many of some decisions are in the smallest class."""
        return int(np.bincount(self.answers[decisions], minlength=self.classes).min())


def asked_of(splits: Sequence[Examples], decided: Int[np.ndarray, " n"], chosen: Sequence[np.ndarray]) -> list[Asked]:
    """The questions about the decisions of some splits, one after the other, of which ``chosen`` flags those that are looked at.

    ``decided`` is what the original guesses on them. Of attributes there is one for each column of slices and for each slice that
    stands alone, if all splits have it; one that says no more than the label is left out.
    """
    right = np.concatenate([right_answers(split)[kept] for split, kept in zip(splits, chosen, strict=True)])
    task = _coarse(right)
    found = [Asked(signal=TASK, answers=task), Asked(signal=DECISION, answers=_coarse(decided, like=right))]
    for name, answers in _attributes(splits, chosen):
        if len(np.unique(answers)) > 1 and not _same_parting(answers, task):
            found.append(Asked(signal=ATTRIBUTE + name, answers=answers))
    return found


def attribute_names(slices: Sequence[str]) -> tuple[str, ...]:
    """What attributes some slices stand for: a column's slices for one.

    >>> attribute_names(["all", "negation", "length=q1", "length=q2"])
    ('negation', 'length')
    """
    return tuple(dict.fromkeys(name.partition("=")[0] for name in slices if name != ALL))


def _attributes(splits: Sequence[Examples], chosen: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    names = [name for name in splits[0].slice_names if all(name in split.slice_names for split in splits)]
    flags = {
        name: np.concatenate([_flags(split, name)[kept] for split, kept in zip(splits, chosen, strict=True)])
        for name in names
    }
    for attribute in attribute_names(names):
        members = [name for name in names if name.partition("=")[0] == attribute]
        alone = len(members) == 1
        table = np.stack([flags[name] for name in members])
        if alone:
            yield attribute, table[0].astype(np.int64)
        elif (table.sum(0) <= 1).all():
            none = ~table.any(0)
            numbers = np.where(none, len(members), table.argmax(0))
            yield attribute, np.unique(numbers, return_inverse=True)[1]


def _flags(split: Examples, name: str) -> np.ndarray:
    """Whether each decision of a split is in a slice of rows or of tokens."""
    if name in split.slices:
        return np.repeat(split.slices[name], split.decisions)
    return np.concatenate([np.asarray(flags, dtype=bool) for flags in split.token_slices[name]])


def _coarse(classes: Int[np.ndarray, " n"], like: Int[np.ndarray, " n"] | None = None) -> Int[np.ndarray, " n"]:
    """The commonest classes by rank, and all others as one more; commonest among ``like``."""
    names, counts = np.unique(classes if like is None else like, return_counts=True)
    if len(names) <= _COMMONEST:
        known = np.union1d(names, np.unique(classes))
        return np.searchsorted(known, classes)
    common = names[np.argsort(-counts, kind="stable")[:_COMMONEST]]
    places = {int(name): place for place, name in enumerate(common)}
    return np.array([places.get(int(each), _COMMONEST) for each in classes])


def _same_parting(one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]) -> bool:
    pairs = len(np.unique(np.stack([one, other]), axis=1).T)
    return pairs == len(np.unique(one)) == len(np.unique(other))
