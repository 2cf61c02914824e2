"""What an evaluator is: a frozen configuration that turns paired predictions, or both models at hand, into scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.gates import Gate, is_one_of
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score, told_of
from compress_explain.plugins.conformance import is_frozen_dataclass
from compress_explain.progress import Advance
from compress_explain.signals.looking import Looking as HowClosely
from compress_explain.signals.scoring import signal_of


@runtime_checkable
class Evaluator(Protocol):
    """Told of stored predictions alone, at every step and years later.

    ``metrics`` names everything that ``evaluate`` may return, so that gates can be checked early.
    """

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def evaluate(self, pairs: Pairs) -> list[Score]: ...


@runtime_checkable
class Measuring(Protocol):
    """Needs both models at hand, and so looks once, at what will be deployed.

    What ``measure`` returns is stored as a table; ``scores`` are told of that table alone, so that a gate can be
    judged again without the models.
    """

    @property
    def metrics(self) -> tuple[str, ...]: ...

    def measure(self, contest: Contest, advance: Advance) -> pd.DataFrame: ...

    def scores(self, measured: pd.DataFrame) -> list[Score]: ...


@runtime_checkable
class Looking(Measuring, Protocol):
    """Looks into the models, and says how closely: how much of a signal is retained can be told of the masked model too.

    So gates on that are judged on the way, and drive reinstatement.
    """

    @property
    def looking(self) -> HowClosely: ...


DEFAULT = ("quality", "slices", "calibration", "fidelity", "discovery")  # what is told of predictions alone, by name


def telling(evaluators: Iterable[Evaluator | Measuring]) -> list[Evaluator]:
    """Those that are told of predictions."""
    return [each for each in evaluators if isinstance(each, Evaluator)]


def measuring(evaluators: Iterable[Evaluator | Measuring]) -> dict[str, Measuring]:
    """Those that need both models, by name."""
    return {type(each).__name__.lower(): each for each in evaluators if isinstance(each, Measuring)}


def metrics_for(evaluators: Sequence[Evaluator | Measuring], task: str) -> set[str]:
    """Everything that may be told of a task, so that a gate on anything else is refused early.

    An evaluator may narrow its ``metrics`` by a method ``metrics_for(task)``; without one all of them may be told, but for the
    toolkit's own that do not suit the task.
    """
    narrowed = [getattr(each, "metrics_for", None) for each in evaluators]
    named = [
        each.metrics if narrow is None else narrow(task) for each, narrow in zip(evaluators, narrowed, strict=True)
    ]
    return told_of(task, (metric for metrics in named for metric in metrics))


def on_the_way(gates: Iterable[Gate], evaluators: Iterable[Evaluator | Measuring]) -> list[Gate]:
    """The gates that can be judged before anything is deployed: on predictions or on signals, and against the original."""
    evaluators = list(evaluators)
    looks = looking(evaluators) is not None
    later = [metric for each in measuring(evaluators).values() for metric in each.metrics]
    return [
        gate
        for gate in gates
        if gate.against == "original" and (not is_one_of(gate.metric, later) or (looks and signal_of(gate.metric)))
    ]


def looking(evaluators: Iterable[Evaluator | Measuring]) -> HowClosely | None:
    """How closely the models are looked into; None where nobody does."""
    return next((each.looking for each in evaluators if isinstance(each, Looking)), None)


def asked_on_the_way(gates: Iterable[Gate], evaluators: Iterable[Evaluator | Measuring]) -> list[Evaluator]:
    """Those whose figures are looked at before anything is deployed: what gates ask for, and what every step is told by."""
    wanted = {"accuracy", "nll"} | {gate.metric for gate in gates}
    return [each for each in telling(evaluators) if wanted & set(each.metrics)]


def check_evaluator(evaluator: object) -> None:
    """Raise if ``evaluator`` is not a frozen dataclass with ``metrics`` and ``evaluate``, or ``measure`` and ``scores``.

    Raises:
        TypeError: what is missing.
    """
    name = type(evaluator).__name__
    if not is_frozen_dataclass(evaluator):
        raise TypeError(f"evaluator {name} must be a frozen dataclass: it is its own configuration")
    if not isinstance(evaluator, Evaluator | Measuring):
        raise TypeError(
            f"evaluator {name} must have metrics and evaluate(pairs), or measure(contest, advance) and scores(measured)"
        )
    if not evaluator.metrics:
        raise TypeError(f"evaluator {name} must name at least one metric")
