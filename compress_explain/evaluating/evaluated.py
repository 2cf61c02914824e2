"""A finished evaluation, read from its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from compress_explain.comparison.gates import State
from compress_explain.comparison.predictions import Pairs
from compress_explain.errors import Exit, InputError
from compress_explain.record.judged import scores_file
from compress_explain.record.ledger import Ledger
from compress_explain.record.outcome import EXITS
from compress_explain.record.replay import read_ledger

SUMMARY = "evaluation.json"
STEP = "artifact"  # as a run calls the judgement of what is deployed on test rows


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation, read from its folder."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / SUMMARY).exists():
            raise InputError("evaluation", str(self.folder), f"no {SUMMARY} here", "give the folder of a finished one")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures of ``evaluation.json``."""
        summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        return summary

    @property
    def state(self) -> State:
        state: State = self.summary["state"]
        return state

    @property
    def exit_code(self) -> Exit:
        return EXITS[self.state]

    @cached_property
    def ledger(self) -> Ledger:
        """The verified ledger."""
        return read_ledger(self.folder)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a score."""
        return pd.read_parquet(scores_file(self.ledger, STEP))

    @cached_property
    def pairs(self) -> Pairs:
        """What both models decided."""
        return Pairs.load(self.folder / "predictions" / f"{STEP}-test.parquet")
