"""A judgement as it was recorded: its verdicts, the scores behind them, the predictions behind those."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from compress_explain.comparison.predictions import Pairs
from compress_explain.record.judged import judged_pairs
from compress_explain.record.ledger import Ledger, Record

if TYPE_CHECKING:
    from compress_explain.record.outcome import Run

Scores = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True)
class Judgement:
    """One ``judged`` record. ``scores`` maps (metric, slice) to a row of the score table."""

    record: Record
    ledger: Ledger = field(repr=False)

    @property
    def split(self) -> str:
        split: str = self.record.body["split"]
        return split

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        verdicts: list[dict[str, Any]] = self.record.body["verdicts"]
        return verdicts

    @property
    def of_artifact(self) -> bool:
        """Whether the file that would be deployed was judged, on whatever split."""
        return self.record.step in ("artifact", "deployed")

    @property
    def on_test(self) -> bool:
        return self.record.step == "artifact"

    @cached_property
    def scores(self) -> Scores:
        table = pd.read_parquet(self._folder / "tables" / f"scores-{self.record.step}.parquet")
        rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
        return {(row["metric"], row["slice"]): row for row in rows}

    @cached_property
    def pairs(self) -> Pairs:
        """The predictions that were judged."""
        return judged_pairs(self.ledger, self.record)

    def measured(self, name: str) -> pd.DataFrame | None:
        """What an evaluator that needs both models saw of what was judged; None where it did not look."""
        record = self.ledger.find("measured", f"{name}-{self.record.step}")
        return None if record is None else pd.read_parquet(self._folder / next(iter(record.files)))

    @property
    def _folder(self) -> Path:
        return self.ledger.path.parent


def final_judgement(run: Run) -> Judgement:
    """The judgement that the run's state rests on; one that was reverted does not count."""
    verdicts = run.summary["verdicts"]
    judged = run.ledger.of_kind("judged")
    record = next((each for each in reversed(judged) if each.body["verdicts"] == verdicts), judged[-1])
    return Judgement(record, run.ledger)


def first_judgement(run: Run) -> Judgement:
    """The judgement on validation before anything was restored."""
    return Judgement(run.ledger.of_kind("judged")[0], run.ledger)


def headline(judgement: Judgement) -> dict[str, Any] | None:
    """The score that stands for all: accuracy over all rows, else the first gate's score that exists."""
    keys = [("accuracy", "all"), *((verdict["metric"], verdict["slice"]) for verdict in judgement.verdicts)]
    return next((judgement.scores[key] for key in keys if key in judgement.scores), None)
