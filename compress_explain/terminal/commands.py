"""What the commands do once their arguments are read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from compress_explain.api import publish, publish_search
from compress_explain.config import Config, load_config
from compress_explain.data.loading import Splits, load_splits
from compress_explain.errors import Exit, InputError
from compress_explain.model.loading import Subject, load_any, load_subject, quieten
from compress_explain.progress import Progress
from compress_explain.record.champion import Champion
from compress_explain.record.folder import write_text
from compress_explain.run import execute
from compress_explain.running.job import Job
from compress_explain.terminal.fetching import fetching
from compress_explain.terminal.pricing import Workers


def run_config(path: Path, overrides: list[str], out: Path | None, *, resume: bool) -> Exit:
    """Carry out a configuration file and show the result."""
    from compress_explain.terminal.summary import print_places, print_run

    config = load_config(path, overrides)
    folder = out or Path(config.out)
    progress = Progress()
    registries = config.build_registries()
    for registry in registries:
        registry.check()
    subject, splits = load_inputs(config, progress)
    with fetching() as store:
        job = build_job(config, subject, splits, store.champion(config.champion, progress))
    run = execute(job, folder, progress, resume=resume)
    print_run(run)
    print_places(publish(run, registries, progress))
    return run.exit_code


def run_search(path: Path, overrides: list[str], out: Path | None, workers: Workers, *, resume: bool) -> Exit:
    """Search as a configuration file says and show the front."""
    from compress_explain.search import search
    from compress_explain.terminal.search import print_search
    from compress_explain.terminal.summary import print_places

    config = load_config(path, overrides, searching=True)
    folder, engine = out or Path(config.out), workers.build()
    progress, registries = Progress(), config.build_registries()
    for registry in registries:
        registry.check()
    subject, splits = load_inputs(config, progress)
    with fetching() as store:
        job = build_job(config, subject, splits, store.champion(config.champion, progress))
    found = search(job, config.build_search(), folder, progress, engine=engine, resume=resume)
    print_search(found)
    print_places(publish_search(found, registries, progress))
    return found.exit_code


def load_inputs(config: Config, progress: Progress) -> tuple[Subject, Splits]:
    """Model and data of a configuration, checked and encoded."""
    quieten()
    if config.threads:
        torch.set_num_threads(config.threads)
    progress.say(f"model: {config.model}")
    subject = load_subject(config.model, config.task, pooling=config.pooling, normalize=config.normalize)
    splits = load_splits(config.data_spec(), config.slice_rules(), subject, config.seed)
    progress.say("data: " + ", ".join(f"{split.name} {len(split):,} rows" for split in splits))
    for split in splits:
        if split.truncated:
            progress.say(
                f"data: {split.truncated:,} texts of {split.name} were longer than the model takes and were cut"
            )
        if split.left_out:
            progress.say(
                f"data: {split.left_out:,} rows of {split.name} are left out: their answer lies beyond the "
                f"{split.max_length} tokens that the model takes"
            )
    return subject, splits


def build_job(config: Config, subject: Subject, splits: Splits, champion: Champion | None = None) -> Job:
    """The parts of a configuration as objects, checked against the data."""
    return Job(
        subject=subject,
        splits=splits,
        strategies=config.build_strategies(),
        evaluators=config.build_evaluators(),
        gates=config.build_gates(),
        compensation=config.build_compensation(),
        reinstatement=config.build_reinstatement(),
        audit=config.build_audit(),
        seed=config.seed,
        batch_size=config.batch_size,
        redact=config.redact,
        runtime=config.runtime,
        artifacts=tuple(config.artifacts),
        target=config.build_target(),
        priced_rows=config.priced_rows,
        waivers=config.build_waivers(),
        champion=champion,
        attribution=config.build_attribution(),
    )


def show_plan(path: Path, overrides: list[str]) -> None:
    """Price and plan with masks only; nothing is written."""
    from compress_explain.terminal.rehearsal import rehearse

    config = load_config(path, overrides)
    progress = Progress()
    subject, splits = load_inputs(config, progress)
    rehearse(build_job(config, subject, splits), progress)


def show_anatomy(source: str, tokens: int) -> None:
    """Print a model's components as a tree."""
    from compress_explain.model.anatomy import read_anatomy
    from compress_explain.terminal.tree import print_anatomy

    quieten()
    print_anatomy(read_anatomy(load_any(source), tokens))


def write_config(model: str, data: Path, out: Path) -> None:
    """Write a commented configuration for a model and a data file."""
    from compress_explain.terminal.starter import starter_config

    quieten()
    if out.exists():
        raise InputError("out", str(out), "the file is already there", "choose another name with --out")
    write_text(out, starter_config(model, data))
    print(f"wrote {out}; check the commented lines, then: compress-explain run {out}")


def show_run(folder: Path) -> None:
    """Print the ledger of a run."""
    from compress_explain.terminal.reading import print_ledger

    print_ledger(folder)


def show_component(folder: Path, component: str) -> None:
    """Print what happened to one component."""
    from compress_explain.terminal.reading import print_component

    print_component(folder, component)


def open_ui(port: int) -> None:
    """Serve the MLflow UI of the resolved store until it is stopped."""
    from compress_explain.registry import resolve_tracking_uri

    uri = resolve_tracking_uri(None)
    print(f"MLflow on {uri}: http://127.0.0.1:{port} (stop with Ctrl-C)")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    subprocess.run(command, check=False)
