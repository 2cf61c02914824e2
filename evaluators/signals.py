"""Does what the original knew survive? Probes with controls, CKA, activation patching, attribution and the flow of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.scores import Score
from compress_explain.errors import InputError, did_you_mean
from compress_explain.model.loading import load_subject
from compress_explain.progress import Advance
from compress_explain.signals.looking import PARTS, Looking, tasks_that_can
from compress_explain.signals.measuring import look
from compress_explain.signals.probing.asked import ATTRIBUTE, DECISION, QUALITY, TASK
from compress_explain.signals.probing.catches import exclusive_catches
from compress_explain.signals.probing.partial import partial_spearman
from compress_explain.signals.scoring import CKA_SCORE, above_chance_of, retention_of, scores_told
from compress_explain.signals.similarity.cka import debiased_cka

__all__ = ["Signals", "debiased_cka", "exclusive_catches", "partial_spearman"]


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What linear probes read off both models at every depth, how alike the models are inside, and what that says of retention.

    Signals are the ``task``'s answer, the original's ``decision``, which decisions will be wrong (``quality``) and every slice
    (``attribute.NAME``). The share of each that is retained is a score, ``signals.NAME.retention``: 1 where the compressed model
    shows as much of it above a control as the original does, 0 where it shows no more than the control: a model with random weights, or
    shuffled answers, whichever shows more. ``signals.NAME.above_chance`` is the same share above chance alone.

    ``parts`` are some of probes, cka, patching, ablation, attribution and flow. At most ``decisions`` decisions are probed, and probes
    learn from at most ``learning_rows`` rows where a run has rows for that. ``patched_rows``, ``ablated_rows``, ``explained_rows`` and ``flow_rows``
    are how many rows the other parts take, ``steps`` those of integrated gradients. ``strength`` is that of probes (C of scikit-learn's
    logistic regression); ``confidence`` is two-sided. ``reference`` is a folder with another model of the original's shape, trained from another seed:
    how alike that one is to the original is shown as a yardstick.

    Raises:
        InputError: on creation, an unknown part, or a number that cannot be.
    """

    parts: Sequence[str] = PARTS
    decisions: int = 4096
    learning_rows: int = 2048
    patched_rows: int = 128
    ablated_rows: int = 12
    explained_rows: int = 20
    flow_rows: int = 96
    steps: int = 16
    strength: float = 0.03
    resamples: int = 400
    confidence: float = 0.90
    seed: int = 0
    reference: str | None = None

    def __post_init__(self) -> None:
        given = [self.parts] if isinstance(self.parts, str) else list(self.parts)
        for name in given:
            if name not in PARTS:
                raise _refused("parts", name, "unknown", did_you_mean(str(name), PARTS))
        object.__setattr__(self, "parts", tuple(name for name in PARTS if name in given))
        least = {"decisions": 50, "learning_rows": 50, "patched_rows": 2, "ablated_rows": 2, "explained_rows": 2,
                 "flow_rows": 2, "steps": 2, "resamples": 50, "seed": 0}  # fmt: skip
        for name, smallest in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise _refused(
                    name, value, f"must be a whole number of at least {smallest}", "leave it out for the usual one"
                )
        if not isinstance(self.strength, int | float) or not 0 < self.strength < math.inf:
            raise _refused("strength", self.strength, "must be a number above 0", "give 0.03")
        if self.reference is not None and not Path(self.reference).is_dir():
            raise _refused("reference", self.reference, "no such folder", f"check the path (from {Path.cwd()})")
        if not isinstance(self.confidence, int | float) or not 0 < self.confidence < 1:
            raise _refused("confidence", self.confidence, "must lie in (0, 1)", "give 0.9")

    @property
    def metrics(self) -> tuple[str, ...]:
        """``*`` stands for any attribute."""
        signals = (TASK, DECISION, QUALITY, f"{ATTRIBUTE}*")
        return (*map(retention_of, signals), *map(above_chance_of, signals), CKA_SCORE)

    def metrics_for(self, task: str) -> tuple[str, ...]:
        """All of them where decisions stand at places of the stream; else none."""
        return self.metrics if task in tasks_that_can() else ()

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame:
        task = contest.original.examples.task
        reference = None if self.reference is None else load_subject(self.reference, task, any_family=True).model
        return look(contest, self.looking, advance, reference)

    def scores(self, measured: pd.DataFrame) -> list[Score]:
        return scores_told(measured, self.confidence)

    @property
    def looking(self) -> Looking:
        return Looking(
            parts=tuple(self.parts), decisions=self.decisions, learning_rows=self.learning_rows, patched_rows=self.patched_rows,
            ablated_rows=self.ablated_rows, explained_rows=self.explained_rows, flow_rows=self.flow_rows, steps=self.steps,
            strength=self.strength, resamples=self.resamples, confidence=self.confidence, seed=self.seed,
        )  # fmt: skip


def _refused(name: str, value: object, problem: str, remedy: str) -> InputError:
    return InputError(f"evaluators: signals: {name}", value, problem, remedy)
