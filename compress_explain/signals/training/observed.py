"""What observing a training leaves behind: one table of findings, a summary of what they come to, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from compress_explain.record.folder import write_json, write_text
from compress_explain.signals.findings import as_table
from compress_explain.signals.training.followed import Followed
from compress_explain.signals.training.observations import Kept, table_of, write_table
from compress_explain.signals.training.observing import Observing
from compress_explain.signals.training.over_steps import findings_over_steps
from compress_explain.signals.training.summing_up import summed_up

TABLE, SUMMARY, PAGE = "observed.parquet", "observed.json", "observed.html"


def write_observed(folder: Path, names: Sequence[str], observing: Observing) -> dict[str, Any]:
    """Write table, summary and page from the looks that lie in ``folder``; returns the summary.

    ``names`` are those of the training and of others of it with other seeds.
    """
    from compress_explain.report.observed import render_observed

    confidence = observing.confidence
    trainings = [Followed.of(Kept(folder=folder, seed=seed), name, confidence) for seed, name in enumerate(names)]
    found = list(findings_over_steps(trainings, confidence))
    over_steps = as_table([each for _, each in found]).assign(step=[step for step, _ in found], seed=0)
    table = pd.concat([*(table_of(each.kept) for each in trainings), over_steps], ignore_index=True)
    write_table(folder / TABLE, table)
    summary = summed_up(trainings, observing)
    write_json(folder / SUMMARY, summary)
    write_text(folder / PAGE, render_observed(summary, table))
    return summary
