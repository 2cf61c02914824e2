"""Inputs that are spoilt or attacked: does what is left of the model lose more under them than the original?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError, did_you_mean
from compress_explain.progress import Advance
from compress_explain.robustness.catalog import CHANGES
from compress_explain.robustness.images import IMAGE_CHANGES, USUAL_IMAGE_CHANGES
from compress_explain.robustness.measuring import ATTACKS, IMAGES, TEXTS, Trials, measure_robustness
from compress_explain.robustness.scoring import MEAN, metric_of, scores_told
from compress_explain.robustness.texts import TEXT_CHANGES, USUAL_TEXT_CHANGES


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Accuracy of both classifiers on the same ``rows`` rows, drawn with ``seed``, under each perturbation and attack.

    ``perturbations`` are names of ways to spoil texts (typos, case, punctuation, spaces, lookalikes, mixed_case, word_drop) or
    images (noise, blur, contrast, occlusion); None takes those of the task, and of texts neither of the last two. ``strength``
    multiplies their usual strengths. ``attacks`` follow each model's own gradient, ``pgd`` in so many ``steps``, to the radii
    ``epsilons``: of texts, in each token's embedding, in median norms of the model's embeddings (L2); of images, in
    standard deviations of the split's pixels (L-infinity). They take longer, so no more than ``attacked_rows`` of the rows are attacked.
    An attack on embeddings is answered by the models in torch; where another file is deployed a gate on it is inconclusive. Attacked
    pixels are shown to what is deployed. An attack that fails certifies nothing.
    ``confidence`` is two-sided.

    Raises:
        InputError: on creation, an unknown name, or a number that cannot be.
    """

    perturbations: Sequence[str] | None = None
    strength: float = 1.0
    attacks: Sequence[str] = ATTACKS
    epsilons: Sequence[float] = (0.01, 0.02, 0.05)
    steps: int = 5
    rows: int = 512
    attacked_rows: int = 128
    confidence: float = 0.90
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("perturbations", tuple(CHANGES)), ("attacks", ATTACKS)):
            object.__setattr__(self, name, _names(name, getattr(self, name), known))
        object.__setattr__(self, "epsilons", _radii(self.epsilons))
        for name in ("steps", "rows", "attacked_rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise _refused(name, value, "must be a whole number of at least 1", "leave it out for the usual one")
        if not _is_number(self.strength) or self.strength <= 0:
            raise _refused("strength", self.strength, "must be a number above 0", "give 1 for the usual strengths")
        if not _is_number(self.confidence) or not 0 < self.confidence < 1:
            raise _refused("confidence", self.confidence, "must lie in (0, 1)", "give 0.9")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise _refused("seed", self.seed, "must be a whole number of at least 0", "give 0")

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.metrics_for(TEXTS), *self.metrics_for(IMAGES))))

    def metrics_for(self, task: str) -> tuple[str, ...]:
        """Those that can be told of a task; of any but the classification of texts or images, none."""
        if task not in (TEXTS, IMAGES):
            return ()
        changes = [metric_of(name, strength) for name, strength in self._changes(task)]
        attacks = [metric_of(name, radius) for name in self.attacks for radius in self.epsilons]
        return (*changes, *([MEAN] if any(CHANGES[name].right for name, _ in self._changes(task)) else []), *attacks)

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame:
        trials = Trials(
            changes=self._changes(contest.original.examples.task), attacks=tuple(self.attacks), epsilons=tuple(self.epsilons),
            steps=self.steps, rows=self.rows, attacked_rows=self.attacked_rows, seed=self.seed,
        )  # fmt: skip
        return measure_robustness(contest, trials, advance)

    def scores(self, measured: pd.DataFrame) -> list[Score]:
        return scores_told(measured, self.confidence, self.seed)

    def _changes(self, task: str) -> tuple[tuple[str, float], ...]:
        known = TEXT_CHANGES if task == TEXTS else IMAGE_CHANGES
        usual = USUAL_TEXT_CHANGES if task == TEXTS else USUAL_IMAGE_CHANGES
        names = usual if self.perturbations is None else self.perturbations
        return tuple(
            (name, min(known[name].most, self.strength * known[name].usual)) for name in names if name in known
        )


def _names(name: str, given: object, known: tuple[str, ...]) -> tuple[str, ...] | None:
    if given is None and name == "perturbations":
        return None
    if not isinstance(given, list | tuple):
        raise _refused(name, given, "must be a list of names", f"choose from {', '.join(known)}")
    for each in given:
        if each not in known:
            raise _refused(name, each, "unknown", did_you_mean(str(each), known))
    return tuple(dict.fromkeys(given))


def _radii(given: object) -> tuple[float, ...]:
    values = given if isinstance(given, list | tuple) else (given,)
    if any(not _is_number(value) or value <= 0 for value in values):
        raise _refused("epsilons", given, "must be numbers above 0", "give for example [0.05, 0.1]")
    return tuple(sorted({float(value) for value in values}))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refused(name: str, value: object, problem: str, remedy: str) -> InputError:
    return InputError(f"evaluators: robustness: {name}", value, problem, remedy)
