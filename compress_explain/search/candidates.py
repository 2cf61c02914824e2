"""Pipelines under consideration: what each is expected to come to, and what was seen of it on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from compress_explain.comparison.gates import judge, overall
from compress_explain.comparison.predictions import Pairs
from compress_explain.plugins.evaluator import asked_on_the_way, on_the_way
from compress_explain.pricing import observed_joint
from compress_explain.running.job import Job
from compress_explain.search.costs import Cost
from compress_explain.search.expected import Harm
from compress_explain.search.options import By
from compress_explain.search.reserve import finite, reserve
from compress_explain.search.space import Pipeline

_FEW = 4  # points below which a rank correlation says nothing


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a pipeline did to some rows of validation: KL and loss in nats, accuracy and its change as shares.

    ``reserve`` is the least slack of all gates in half-widths of their intervals, None where one could not be judged.
    """

    kl: float
    loss_change: float
    accuracy_change: float
    state: str
    reserve: float | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A pipeline with its number in the search, its expectations, and what was seen of it last."""

    number: int
    pipeline: Pipeline
    cost: Cost
    harm: Harm
    seen: Seen | None = field(default=None)

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        observed = {} if self.seen is None else {f"observed_{name}": value for name, value in asdict(self.seen).items()}
        expected = {f"expected_{name}": value for name, value in asdict(self.harm).items()}
        steps = [step.words for step in self.pipeline.steps]
        return (
            {"number": self.number, "pipeline": self.pipeline.words, "steps": steps}
            | self.cost.facts()
            | expected
            | observed
        )


def seen(job: Job, pairs: Pairs, original: Pairs) -> Seen:
    """What the predictions ``pairs`` say, with the gates' verdict on them; ``original`` is the original beside itself."""
    joint = observed_joint(original, pairs)
    gates = on_the_way(job.gates, job.evaluators)
    asked = asked_on_the_way(gates, job.evaluators)
    verdicts = judge(gates, [each for evaluator in asked for each in evaluator.evaluate(pairs)])
    rows = [{"slack": finite(each.slack), "low": finite(each.low), "high": finite(each.high)} for each in verdicts]
    return Seen(
        kl=joint.kl,
        loss_change=joint.loss_change,
        accuracy_change=joint.accuracy_change,
        state=overall(verdicts),
        reserve=finite(reserve(rows)),
        rows=pairs.independent,
    )


def points(candidates: Sequence[Candidate], axes: Sequence[By]) -> np.ndarray:
    """``(candidates, axes + 1)``: costs, and last the harm: what was seen of it, or else is expected."""
    harms = [each.harm.together if each.seen is None else each.seen.kl for each in candidates]
    costs = [[each.cost.of(axis) for axis in axes] for each in candidates]
    return np.column_stack([np.array(costs).reshape(len(candidates), len(axes)), harms])


def agreement(expected: Sequence[Harm], observed: Sequence[float]) -> dict[str, Any]:
    """Spearman's rank correlation of observed KL with both expectations; None where there are too few or all are alike."""
    return {
        "n": len(observed),
        "together": _spearman([each.together for each in expected], observed),
        "summed": _spearman([each.summed for each in expected], observed),
    }


def _spearman(expected: Sequence[float], observed: Sequence[float]) -> float | None:
    if len(observed) < _FEW or np.ptp(expected) == 0 or np.ptp(observed) == 0:
        return None
    return float(spearmanr(expected, observed).statistic)
