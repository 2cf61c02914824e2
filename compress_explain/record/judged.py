"""What was measured and what was judged, as it is kept: tables beside the ledger, and a record of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import pandas as pd

from compress_explain.comparison.contest import Contest
from compress_explain.comparison.gates import Verdict, overall
from compress_explain.comparison.predictions import Pairs
from compress_explain.comparison.scores import Score
from compress_explain.plugins.evaluator import Evaluator, Measuring, measuring
from compress_explain.progress import Progress
from compress_explain.record.ledger import Ledger, Record


def measure_once(
    ledger: Ledger,
    step: str,
    evaluators: Iterable[Evaluator | Measuring],
    contest: Callable[[], Contest],
    rows: int,
    progress: Progress,
) -> list[Score]:
    """Let every evaluator that needs both models look at them; what it saw is stored, and read back on resuming.

    The ``contest`` over ``rows`` rows is set up when it is first needed.
    """
    found: list[Score] = []
    for name, evaluator in measuring(evaluators).items():
        path = _table(ledger, name, step)
        if not ledger.find("measured", f"{name}-{step}"):
            with progress.track(f"measuring {name}", rows) as advance:
                table = evaluator.measure(contest(), advance)
            table.to_parquet(path, index=False)
            ledger.append("measured", f"{name}-{step}", {"evaluator": name, "rows": len(table)}, (path,))
        found += evaluator.scores(pd.read_parquet(path))
    return found


def measured_before(ledger: Ledger, step: str, evaluators: Iterable[Evaluator | Measuring]) -> list[Score]:
    """What is told of the tables that were stored at ``step``."""
    return [
        score
        for name, evaluator in measuring(evaluators).items()
        if ledger.find("measured", f"{name}-{step}")
        for score in evaluator.scores(pd.read_parquet(_table(ledger, name, step)))
    ]


def record_judgement(
    ledger: Ledger, step: str, split: str, scores: Sequence[Score], verdicts: Sequence[Verdict], day: date
) -> None:
    """Store the scores and record the verdicts of ``step``, unless they are there; waivers counted as on ``day``."""
    if ledger.find("judged", step):
        return
    path = scores_file(ledger, step)
    scores_frame(scores).to_parquet(path, index=False)
    body = {
        "split": split,
        "state": overall(verdicts),
        "day": day.isoformat(),
        "verdicts": [each.row() for each in verdicts],
    }
    ledger.append("judged", step, body, (path,))


def judged_pairs(ledger: Ledger, record: Record) -> Pairs:
    """The predictions that a judgement rests on: the last ones made before it, on the same split."""
    earlier = reversed(ledger.records[: record.seq])
    made = next(each for each in earlier if each.kind == "predicted" and each.body["split"] == record.body["split"])
    return Pairs.load(ledger.path.parent / next(iter(made.files)))


def scores_file(ledger: Ledger, step: str) -> Path:
    """Where the scores of a step lie."""
    return ledger.path.parent / "tables" / f"scores-{step}.parquet"


def scores_frame(scores: Iterable[Score]) -> pd.DataFrame:
    """One row a score."""
    return pd.DataFrame([asdict(score) for score in scores])


def _table(ledger: Ledger, evaluator: str, step: str) -> Path:
    return ledger.path.parent / "tables" / f"measured-{evaluator}-{step}.parquet"
