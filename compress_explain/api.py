"""The toolkit as one function: objects in, a finished run out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress_explain.choosing.target import Target
from compress_explain.comparison.gates import Gate
from compress_explain.comparison.waivers import Waiver
from compress_explain.compensation import Compensation
from compress_explain.data.loading import DataSpec, Splits, load_splits
from compress_explain.data.slices import SliceRule
from compress_explain.deployment.forms import Artifact, Choice
from compress_explain.model.loading import Subject, load_subject
from compress_explain.plugins.evaluator import Evaluator, Measuring
from compress_explain.plugins.registry import Registry, Searching
from compress_explain.plugins.strategy import Strategy
from compress_explain.pricing import AuditPlan
from compress_explain.progress import Progress
from compress_explain.record.champion import Champion
from compress_explain.record.outcome import Run
from compress_explain.run import execute
from compress_explain.running.job import Job
from compress_explain.running.options import Attribution
from compress_explain.running.reinstate import Reinstatement
from compress_explain.search import Found

COMPENSATION = Compensation()


def compress(
    model: Subject | str,
    data: Splits | DataSpec,
    *,
    strategies: Sequence[Strategy],
    evaluators: Sequence[Evaluator | Measuring],
    gates: Sequence[Gate],
    slices: Sequence[SliceRule] = (),
    task: str = "text-classification",
    out: str | Path = "runs/latest",
    compensation: Compensation | None = COMPENSATION,
    reinstatement: Reinstatement | None = None,
    audit: AuditPlan | None = None,
    attribution: Attribution | None = None,
    waivers: Sequence[Waiver] = (),
    champion: Champion | None = None,
    registries: Sequence[Registry] = (),
    seed: int = 0,
    batch_size: int = 32,
    redact: bool = False,
    runtime: Choice = "torch",
    artifacts: Sequence[Artifact] = ("checkpoint",),
    target: Target | None = None,
    priced_rows: int = 1024,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Compress ``model``, judge it, put back what the gates ask for, and return the run in ``out``.

    ``model`` is a folder or hub id with a head for ``task``, or what :func:`load_subject` gave;
    ``data`` says where the splits are (then ``slices`` are cut from them), or is what
    :func:`load_splits` gave. Without ``compensation`` what is left keeps its weights. What is judged
    is what runs: the torch checkpoint; with ``runtime="onnx"``, and whenever a strategy quantizes, an
    ONNX file; with ``compiled`` machine code in bfloat16; with ``auto`` whichever is fastest on this
    machine. ``artifacts`` are written beside the checkpoint. A strategy without a budget buys what the ``target`` asks for, and how
    fast the deployed model then is is measured. Registries are asked first whether they can be reached, and are given the run when it is complete.

    Raises:
        InputError: something about the input or the output folder is wrong.
        RunInterrupted: stopped from outside; continue with ``resume``.
    """
    for registry in registries:
        registry.check()
    subject = load_subject(model, task) if isinstance(model, str) else model
    splits = load_splits(data, slices, subject, seed) if isinstance(data, DataSpec) else data
    job = Job(
        subject=subject,
        splits=splits,
        strategies=strategies,
        evaluators=evaluators,
        gates=gates,
        compensation=compensation,
        reinstatement=reinstatement or Reinstatement(),
        audit=audit or AuditPlan(),
        attribution=attribution or Attribution(),
        waivers=waivers,
        champion=champion,
        registries=registries,
        seed=seed,
        batch_size=batch_size,
        redact=redact,
        runtime=runtime,
        artifacts=artifacts,
        target=target,
        priced_rows=priced_rows,
    )
    progress = progress or Progress(quiet=True)
    run = execute(job, Path(out), progress, resume=resume)
    publish(run, registries, progress)
    return run


def publish_search(found: Found, registries: Sequence[Registry], progress: Progress) -> list[str]:
    """Mirror a finished search to each registry and return where it can be looked at.

    One that knows of runs alone is given the named run.

    Raises:
        InputError: a registry cannot be reached; the search's folder is complete all the same.
    """
    places = []
    for registry in registries:
        progress.say("mirroring the search and its trials to its registry")
        if isinstance(registry, Searching):
            places.append(registry.publish_search(found.folder))
        elif found.named is not None:
            places.append(registry.publish(found.named.folder))
    return places


def publish(run: Run, registries: Sequence[Registry], progress: Progress) -> list[str]:
    """Mirror a finished run to each registry and return where it can be looked at.

    Raises:
        InputError: a registry cannot be reached; the run's folder is complete all the same.
    """
    places = []
    for registry in registries:
        progress.say("mirroring the run to its registry (seconds to a minute, by its size and distance)")
        places.append(registry.publish(run.folder))
    return places
