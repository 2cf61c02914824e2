"""What a job's target needs to know of this machine: before anything is removed, and of the file that is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.choosing.target import Target, outcome
from compress_explain.data.examples import Examples
from compress_explain.model.anatomy import Anatomy
from compress_explain.progress import Progress
from compress_explain.running.job import Job
from compress_explain.running.opening import load_deployed

if TYPE_CHECKING:
    from compress_explain.deployment.stopwatch import Stopwatch


def latency_of(job: Job, target: Target, anatomy: Anatomy, progress: Progress) -> LatencyTable:
    """What each sort of sublayer of the untouched model takes here, from the cache or measured now.

    Raises:
        InputError: the model or the scheme cannot be timed as the target says.
        ArtifactError: the model cannot be exported.
    """
    from compress_explain.deployment.stopwatch import forms_to_measure  # seconds to import

    stopwatch = _stopwatch(job, target, anatomy)
    forms = forms_to_measure(job.subject.model, anatomy)
    with progress.track(f"timing sublayers ({stopwatch.name})", forms) as advance:
        return stopwatch.table(advance)


def timed(job: Job, target: Target, anatomy: Anatomy, artifact: Path, read: Examples) -> dict[str, Any]:
    """The deployed file against the original, and what the target says to that; ``read`` is as the file's tokenizer reads."""
    from compress_explain.deployment.latency import sized_inputs
    from compress_explain.deployment.stopwatch import clock_name, runtime_name

    stopwatch = _stopwatch(job, target, anatomy)
    inputs = sized_inputs(read, stopwatch.batch, stopwatch.tokens)
    original, deployed = stopwatch.against_original(load_deployed(artifact, stopwatch.threads), inputs)
    body = {
        "original": original.timed.facts,
        "deployed": deployed.timed.facts,
        "speedup": deployed.times_faster(original),
        "speedup_interval": deployed.times_faster_interval(original),
        "rounds": len(original.milliseconds),
        "runtime": stopwatch.name,
        "reference": runtime_name(stopwatch.runtime, None),
        "batch": stopwatch.batch,
        "tokens": stopwatch.tokens,
        "threads": stopwatch.threads,
        "processor": stopwatch.processor,
        "clock": clock_name(stopwatch.threads),
    }
    return body | outcome(target, body)


def _stopwatch(job: Job, target: Target, anatomy: Anatomy) -> Stopwatch:
    from compress_explain.deployment.stopwatch import Stopwatch

    return Stopwatch(
        model=job.subject.model,
        anatomy=anatomy,
        examples=job.splits.calibration,
        runtime="onnx" if job.deploys_onnx else "torch",
        scheme=job.scheme,
        batch=target.batch,
        tokens=target.tokens or anatomy.tokens,
        threads=torch.get_num_threads(),
    )
