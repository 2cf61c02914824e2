"""Gates on signals while edits are still being chosen: judged of the masked model on validation, and driving what is put back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd

from compress_explain.comparison.gates import Gate, Verdict
from compress_explain.comparison.scores import Score
from compress_explain.data.examples import Examples
from compress_explain.plugins.evaluator import looking
from compress_explain.running.reinstate import noise
from compress_explain.signals.scoring import scores_told, signal_of
from compress_explain.signals.steering import Steering

if TYPE_CHECKING:
    from compress_explain.running.session import Session


def retained_on_the_way(session: Session, step: str, gates: Sequence[Gate]) -> list[Score]:
    """How much of each gated signal the masked model retains at ``step``, on validation; nothing where no gate asks.

    What was found is stored once, and read back on resuming.
    """
    signals, closely = _asked_for(gates), looking(session.job.evaluators)
    if not signals or closely is None:
        return []
    path, name = session.table(f"signals-{step}"), f"signals-{step}"
    if not session.ledger.find("measured", name):
        steering = session.steering
        session.progress.say(f"probing what is retained of {', '.join(sorted(signals))} ({step})")
        learning, judged = (session.read(split) for split in steering.splits)
        found = steering.retained(session.job.subject.model, (learning, judged), signals)
        found.to_parquet(path, index=False)
        session.ledger.append("measured", name, {"evaluator": "signals", "rows": len(found)}, (path,))
    return scores_told(pd.read_parquet(path), closely.confidence)


def steering_of(session: Session) -> Steering:
    """What the original holds; it is read once, with the masks off."""
    closely = looking(session.job.evaluators)
    assert closely is not None, "there is a gate on a signal"
    calibration, validation = session.job.splits.calibration, session.job.splits.validation
    splits = (calibration.draw(closely.learning_rows, closely.seed), validation)
    session.progress.say("reading what the original holds at every layer")
    with session.masks.untouched():
        return Steering.of(session.job.subject.model, splits, closely, session.job.batch_size)


def speaking_signal(session: Session, verdicts: Sequence[Verdict]) -> str | None:
    """The signal that restorations are to be priced for: that of the tightest gate, if it is about one that can be voiced."""
    told = [verdict for verdict in verdicts if math.isfinite(verdict.high - verdict.low)]
    tightest = min(told, key=lambda verdict: verdict.slack / noise(verdict), default=None)
    signal = None if tightest is None else signal_of(tightest.gate.metric)
    return signal if signal is not None and session.steering.can_voice(signal) else None


@contextmanager
def spoken_by(session: Session, signal: str | None, examples: Examples) -> Iterator[Examples]:
    """Inside it the model answers for a signal, and its rows are labelled by it; for the task where there is none."""
    if signal is None:
        yield examples
        return
    with session.steering.voiced(session.job.subject.model, signal) as labelled:
        yield session.read(labelled)


def _asked_for(gates: Sequence[Gate]) -> Collection[str]:
    return {signal for gate in gates if (signal := signal_of(gate.metric)) is not None}
