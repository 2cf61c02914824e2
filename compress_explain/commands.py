"""What the commands do once their arguments are read."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import transformers

from compress_explain.api import compress
from compress_explain.config import Config, load_config
from compress_explain.data import Splits, load_splits
from compress_explain.errors import Exit
from compress_explain.folder import check_folder
from compress_explain.job import Job
from compress_explain.models import Subject, load_subject
from compress_explain.outcome import Run
from compress_explain.progress import Progress


def run_config(path: Path, overrides: list[str], out: Path | None, *, resume: bool) -> Exit:
    """Carry out a configuration file and show the result."""
    from compress_explain.summary import print_run

    config = load_config(path, overrides)
    folder = out or Path(config.out)
    progress = Progress()
    registries = config.build_registries()
    for registry in registries:
        registry.check()
    subject, splits = load_inputs(config, progress)
    job = build_job(config, subject, splits)
    check_folder(folder, job.identity(), resume=resume)
    run = compress(
        subject,
        splits,
        strategies=job.strategies,
        evaluators=job.evaluators,
        gates=job.gates,
        reinstatement=job.reinstatement,
        out=folder,
        seed=config.seed,
        batch_size=config.batch_size,
        redact=config.redact,
        resume=resume,
        progress=progress,
    )
    print_run(run, [registry.publish(folder) for registry in registries])
    return run.exit_code


def load_inputs(config: Config, progress: Progress) -> tuple[Subject, Splits]:
    """Model and data of a configuration, checked and encoded."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config.threads:
        torch.set_num_threads(config.threads)
    progress.say(f"model: {config.model}")
    subject = load_subject(config.model, config.task)
    splits = load_splits(config.data_spec(), config.slice_rules(), subject, config.seed)
    progress.say("data: " + ", ".join(f"{split.name} {len(split):,} rows" for split in splits))
    for split in splits:
        if split.truncated:
            progress.say(f"data: {split.truncated:,} texts of {split.name} were longer than the model takes and were cut")
    return subject, splits


def build_job(config: Config, subject: Subject, splits: Splits) -> Job:
    """The parts of a configuration as objects, checked against the data."""
    return Job(
        subject=subject,
        splits=splits,
        strategies=config.build_strategies(),
        evaluators=config.build_evaluators(),
        gates=config.build_gates(),
        reinstatement=config.build_reinstatement(),
        seed=config.seed,
        batch_size=config.batch_size,
        redact=config.redact,
    )


def _open(folder: Path) -> Run:
    return Run(folder)
