"""A trial: a full run of one pipeline, with gates and reinstatement, in a folder of its own; judged on validation."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress_explain.comparison.scores import metrics_of, score
from compress_explain.data.examples import ALL
from compress_explain.errors import ArtifactError, EditError, InputError
from compress_explain.pricing import AuditPlan, observed_joint
from compress_explain.progress import Progress
from compress_explain.record.folder import LEDGER
from compress_explain.record.outcome import Run
from compress_explain.record.replay import applied_plans
from compress_explain.report.judgement import final_judgement
from compress_explain.run import execute
from compress_explain.running.job import Job
from compress_explain.search.reserve import finite, reserve
from compress_explain.search.space import Pipeline

TRIALS = "trials"
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A pipeline and where it is carried out."""

    number: int
    pipeline: Pipeline = field(repr=False)
    folder: Path

    def job(self, base: Job) -> Job:
        """The job of this trial. How good prices are is told of the whole search, so nothing is audited."""
        return replace(base, strategies=self.pipeline.strategies, audit=AuditPlan(heads=0, neurons=0), registries=())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial; ``trouble`` says why nothing did."""

    state: str | None = None
    trouble: str | None = None

    @property
    def passed(self) -> bool:
        return self.state == "pass"


def folder_name(number: int, pipeline: Pipeline) -> str:
    """Short enough for any file system.

    >>> folder_name(3, Pipeline(steps=()))
    '03'
    """
    words = re.sub(r"[a-z]+_kept=", "", pipeline.words).replace(" → ", "-")
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-")[:60].strip("-")
    return "-".join(filter(None, (f"{number:02d}", slug)))


def carried_out(base: Job, trial: Trial) -> Outcome:
    """Carry out a trial quietly, or go on with one that was stopped."""
    return on_validation(base, trial, Progress(quiet=True))


def on_validation(base: Job, trial: Trial, progress: Progress) -> Outcome:
    """The same, telling how far it is. What cannot be carried out is told and no reason to end a search."""
    try:
        there = (trial.folder / LEDGER).exists()
        run = execute(trial.job(base), trial.folder, progress, resume=there, on_test=False)
    except (InputError, ArtifactError, EditError) as error:
        return Outcome(trouble=str(error).splitlines()[0][:400])
    return Outcome(state=run.state)


def figures(run: Run) -> dict[str, Any]:
    """What a finished trial is compared by, as plain values: costs measured on what would be deployed, harm on validation."""
    facts, seen = run.summary, _harm(run)
    deployed, timed = (
        facts["deployed"],
        facts["target"] if facts["target"] and facts["target"]["met"] is not None else None,
    )
    return {
        "state": facts["state"],
        "flops": facts["flops"]["compressed"] / facts["flops"]["original"],
        "parameters": facts["parameters"]["compressed"] / facts["parameters"]["original"],
        "work": 1 - _work_saved(run) / facts["flops"]["original"],
        "bytes": None if deployed is None else deployed["bytes"] / deployed["original_bytes"],
        "file_bytes": None if deployed is None else deployed["bytes"],
        "milliseconds": None if timed is None else timed["deployed"]["median"],
        "original_milliseconds": None if timed is None else timed["original"]["median"],
        "speedup": None if timed is None else timed["speedup"],
        "target_missed": None if timed is None else timed["missed"],
        "put_back": sum(counts["restored"] for counts in facts["components"].values()),
        "ledger_head": run.ledger.head,
        **seen,
    }


def _work_saved(run: Run) -> int:
    """The FLOPs that in float32 take as long as what is saved in the end."""
    plans = [applied.plan for applied in applied_plans(run.ledger) if not applied.reverted]
    return sum(edit.work_saved for plan in plans for edit in plan.edits)


def _harm(run: Run) -> dict[str, Any]:
    """What changed on validation, by the predictions that the trial was judged on."""
    final = final_judgement(run)
    pairs = final.pairs
    accuracy = next(metric for metric in metrics_of(run.summary["settings"]["task"]) if metric.name == "accuracy")
    seen = score(pairs, accuracy, ALL, CONFIDENCE)
    joint = observed_joint(replace(pairs, compressed=pairs.original), pairs)
    return {
        "accuracy": seen.compressed, "accuracy_change": seen.difference, "accuracy_low": seen.low,
        "accuracy_high": seen.high, "rows": seen.n, "kl": joint.kl, "loss_change": joint.loss_change,
        "reserve": finite(reserve(final.verdicts)),
    }  # fmt: skip
