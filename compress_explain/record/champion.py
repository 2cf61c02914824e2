"""The model that is released now: what it decided on the test rows, for gates against it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError
from compress_explain.plugins.evaluator import Evaluator, Measuring, telling

PREDICTIONS = Path("predictions/artifact-test.parquet")  # in the folder of a run or an evaluation


@dataclass(frozen=True, kw_only=True)
class Champion:
    """Where it was found, and what it decided on its test rows beside its own original."""

    source: str
    pairs: Pairs = field(repr=False)

    def check(self, digest: str) -> None:
        """Raises InputError when it was judged on other rows than those with ``digest``."""
        if self.pairs.digest != digest:
            problem = f"it was judged on other rows ({self.pairs.digest[:12]}, not {digest[:12]})"
            remedy = "judge it on these: compress-explain evaluate ORIGINAL CHAMPION --data TEST, and name that folder"
            raise InputError("champion", self.source, problem, remedy)

    def scores(self, evaluators: Iterable[Evaluator | Measuring], pairs: Pairs) -> list[Score]:
        """The figures of the candidate in ``pairs`` beside the champion's, which takes the original's place."""
        beside = between(self.pairs, pairs)
        return [score for evaluator in telling(evaluators) for score in evaluator.evaluate(beside)]


def between(first: Pairs, second: Pairs) -> Pairs:
    """What two compressed models decided on the same rows, the first in the original's place.

    Raises:
        InputError: other rows, decisions of which not the same choices were kept, or a task whose answers are not kept.
    """
    if first.digest != second.digest or len(first) != len(second):
        raise InputError("rows", second.digest[:12], "not those of the other", "judge both on the same file")
    if second.spans is not None or second.embeddings is not None:
        raise InputError(
            "task", second.task, "its answers were kept beside the original's alone", "gate against the original"
        )
    kept = second.vocabulary
    if kept is not None:
        if first.vocabulary is None or not np.array_equal(first.vocabulary.choices, kept.choices):
            raise InputError(
                "choices", second.split, "of tokens other choices were kept", "start both from one original"
            )
        kept = replace(kept, original=first.vocabulary.compressed)
    return replace(second, original=first.compressed, vocabulary=kept)


def read_champion(folder: Path, source: str) -> Champion:
    """What lies in the ``folder`` of a run or an evaluation that reached its test rows; ``source`` is what it was called.

    Raises:
        InputError: there are no such predictions.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        problem = f"no {PREDICTIONS} here: nothing was judged on test rows"
        raise InputError(
            "champion", source, problem, "give the folder of a finished run or evaluation, or a models:/ URI"
        )
    return Champion(source=source, pairs=Pairs.load(path))
