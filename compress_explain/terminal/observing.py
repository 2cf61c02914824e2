"""Observing a training from the command line: checkpoints, rows, other seeds, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from compress_explain.data.encoding import Reading
from compress_explain.data.examples import Examples
from compress_explain.data.slices import load_rules
from compress_explain.model.loading import Subject, infer_task, load_subject, quieten
from compress_explain.progress import Progress
from compress_explain.report.observed import sentences
from compress_explain.signals.training.observed import PAGE
from compress_explain.signals.training.observing import Observing
from compress_explain.signals.training.over_training import Watched, observe
from compress_explain.signals.training.rows import rows_to_watch
from compress_explain.signals.training.series import series_in
from compress_explain.terminal.console import output
from compress_explain.terminal.mirroring import check_where_asked, publish_where_asked


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for on the command line."""

    checkpoints: Path
    data: str
    learn: str | None
    seeds: tuple[Path, ...]
    slices: Path | None
    task: str | None
    input: str | None
    label: str | None
    rows: int | None
    max_length: int | None
    batch_size: int
    threads: int | None
    observing: Observing
    tracking_uri: str | None


def observe_folder(asked: Asked, out: Path) -> None:
    """Observe, show what became of each signal, and mirror it where a store is configured."""
    quieten()
    check_where_asked(asked.tracking_uri)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    progress = Progress()
    series = series_in(asked.checkpoints)
    seeds = tuple(series_in(folder) for folder in asked.seeds)
    source = str(series.last.path)
    subject = load_subject(source, asked.task or infer_task(source, any_family=True), any_family=True)
    examples, learning = _rows(asked, subject)
    progress.say(f"{len(series)} checkpoints of {series.name}, {len(examples):,} rows")
    watched = Watched(
        series=series, examples=examples, learning=learning, seeds=seeds, observing=asked.observing, batch_size=asked.batch_size
    )  # fmt: skip
    show(observe(watched, out, progress))
    output().print(f"page: {out / PAGE}")
    publish_where_asked(out, asked.tracking_uri)


def _rows(asked: Asked, subject: Subject) -> tuple[Examples, Examples | None]:
    kind = subject.kind
    reading = Reading(
        input=asked.input or kind.input, label=asked.label or kind.label or "label", max_length=asked.max_length,
        long_text="truncate",
    )  # fmt: skip
    rules = () if asked.slices is None else load_rules(asked.slices)
    seed = asked.observing.seed
    return rows_to_watch(asked.data, asked.learn, subject, reading, rules=rules, rows=asked.rows, seed=seed)


def show(summary: dict[str, Any]) -> None:
    """One line a signal, and the warnings."""
    table = Table(box=None)
    for heading in (
        "signal",
        "",
        "forms at step",
        "highest at step",
        "layer",
        "above the control",
        "kept at the end",
        "reaches the last layer",
    ):
        table.add_column(heading)
    for each in summary["signals"]:
        formed, peak, kept = each["formed"], each["peak"], each["kept"]
        table.add_row(
            each["signal"], each["verdict"], "–" if formed is None else f"{formed['step']:,}", f"{peak['step']:,}", peak["layer"],
            _interval(peak), "–" if formed is None else _interval(kept), _interval(each["reach"]["share"][-1]),
        )  # fmt: skip
    output().print(table)
    for signal, why in summary["left_out"].items():
        output().print(f"{signal}: left out, since {why}", highlight=False, soft_wrap=True)
    for sentence in sentences(summary)["falls"]:
        output().print(sentence, highlight=False, soft_wrap=True)


def _interval(told: dict[str, Any]) -> str:
    value, low, high = (told[name] for name in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.3f} to {high:.3f})"
