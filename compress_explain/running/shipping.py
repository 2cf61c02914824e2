"""From masks to what ships: components cut out for good, the files that run, and what those predict."""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from compress_explain.comparison.decided import Forward
from compress_explain.comparison.predictions import Pairs
from compress_explain.data.examples import Examples
from compress_explain.deployment.forms import TORCH
from compress_explain.deployment.manifest import read_manifest
from compress_explain.editing import surgery
from compress_explain.errors import EditError
from compress_explain.pricing import (
    observed_joint,
)
from compress_explain.record import attempts
from compress_explain.record.checkpoint import save_compressed
from compress_explain.running.opening import load_deployed
from compress_explain.running.session import Session
from compress_explain.running.timing import timed
from compress_explain.vocabulary import read_by

DEPLOYED = "deployed"  # the step in which what will be deployed is seen on validation
_COMPARED = 256  # rows on which a checkpoint is compared with the masked model


def materialize(session: Session) -> Path:
    """Cut the components out for good and write the artifact; it must hold what the ledger says."""
    folder = session.folder / "artifact"
    if session.ledger.find("materialized", "artifact"):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped in the middle
    removed, standing, ranks = session.masks.removed, session.masks.standing, session.masks.ranks
    with session.masks.untouched():
        smaller = surgery.materialize(session.job.subject.model, session.anatomy, removed, standing)
    expected = surgery.expected_parameters(session.job.subject.model, session.anatomy, removed, ranks)
    spans, pooling = session.job.splits.test.spans, session.job.subject.pooling
    manifest = save_compressed(
        smaller, folder, removed=removed, base=session.anatomy, ranks=ranks,
        provenance={"source": session.job.subject.source, "digest": session.job.subject.digest, "ledger_head": session.ledger.head,
                    **({} if spans is None else {"answers": spans.facts()}),
                    **({} if pooling is None else {"pooling": asdict(pooling)})},
    )  # fmt: skip
    if manifest["parameters"] != expected:
        raise EditError(f"the artifact has {manifest['parameters']} parameters, the ledger says {expected}")
    _processor(session).save_pretrained(folder)
    saved = session.masks.saved
    body = {"parameters": manifest["parameters"], "parameters_saved": session.anatomy.parameters - expected,
            "flops": session.anatomy.flops - saved[1], "flops_saved": saved[1],
            "bytes": (folder / "model.safetensors").stat().st_size}  # fmt: skip
    files = tuple(sorted(path for path in folder.iterdir() if path.is_file()))
    session.ledger.append("materialized", "artifact", body, files)
    return folder


def _processor(session: Session) -> Any:
    """What goes with the artifact: a tokenizer of the tokens that are left, that cuts where the judged texts were cut."""
    fewer = session.masks.removed_tokens is not None
    own = session.lexicon.without(session.lexicon.gone) if fewer else session.job.subject.processor
    spec = session.job.splits.spec
    if session.job.subject.kind.reads == "image" or spec is None or spec.max_length is None:
        return own
    processor = copy.deepcopy(own)
    processor.model_max_length = spec.max_length
    return processor


def deploy(session: Session, artifact: Path, masked: Pairs) -> None:
    """Write what will run and what else was asked for, and compare what runs with the ``masked`` model on validation."""
    from compress_explain.running.delivery import deliver  # seconds to import

    deliver(session, artifact, read_by_artifact(session, session.job.splits.calibration, artifact))
    if not session.ledger.find("compared", "deployed"):
        simulated, deployed = _side_by_side(session, masked, artifact)
        same = simulated.compressed_guesses == deployed.compressed_guesses
        gap = np.abs(simulated.compressed - deployed.compressed)
        body = {"split": masked.split, "agreement": float(same.mean()), "n": len(same), "logits": float(gap.max()),
                "change": asdict(observed_joint(simulated, deployed))}  # fmt: skip
        session.ledger.append("compared", "deployed", body)


def _side_by_side(session: Session, masked: Pairs, artifact: Path) -> tuple[Pairs, Pairs]:
    """The ``masked`` model and what runs, on validation; a checkpoint, which differs by rounding alone, on some rows."""
    validation = session.job.splits.validation
    read = read_by_artifact(session, validation, artifact)
    if read_manifest(artifact).form != TORCH:
        return masked, session.predictions(DEPLOYED, validation, _deployed(artifact), read)
    some = replace(read, labels=np.arange(len(read))).draw(_COMPARED, session.job.seed)  # labelled by their row
    simulated, label = masked.of_rows(some.labels), "comparing the checkpoint with the masked model"
    decided = session.predict(_deployed(artifact), some, label, simulated.decided.choices)
    return simulated, simulated.beside(decided)


def deployed_on_validation(session: Session) -> Pairs | None:
    """What the deployed form predicted there; None of a checkpoint, which differs from the masks by rounding alone."""
    validation = session.job.splits.validation
    name = f"{DEPLOYED}-{validation.name}"
    return (
        Pairs.load(session.folder / "predictions" / f"{name}.parquet")
        if session.ledger.find("predicted", name)
        else None
    )


def observe_artifact(session: Session, artifact: Path, *, on_test: bool = True) -> tuple[str, Pairs]:
    """The step's name, and predictions of what will be deployed, loaded from disk, on test or on validation."""
    step, split = ("artifact", session.job.splits.test) if on_test else (DEPLOYED, session.job.splits.validation)
    read = read_by_artifact(session, split, artifact)
    return step, session.predictions(step, split, _deployed(artifact), read)


def count_attempt(session: Session, *, on_test: bool) -> None:
    """Enter in the list beside the run's folder that the test rows are read for a verdict once more."""
    if not on_test or session.ledger.find("attempted", "test"):
        return
    subject, test = session.job.subject, session.job.splits.test
    attempt = attempts.count_attempt(
        session.folder, model=subject.digest, data=test.digest, protocol=session.job.protocol.digest
    )
    session.ledger.append("attempted", "test", attempt.facts())
    if attempt.number > 1:
        session.progress.say(
            f"attempt {attempt.number} at a verdict on these test rows: each one makes a pass by luck likelier"
        )


def time_artifact(session: Session, artifact: Path) -> None:
    """Measure what will be deployed against the original, where there is a target."""
    if session.job.target is None or session.latency is None or session.ledger.find("timed", "artifact"):
        return
    session.progress.say("timing what will be deployed against the original, in turn")
    read = read_by_artifact(session, session.job.splits.calibration, artifact)
    with session.masks.untouched():
        body = timed(session.job, session.job.target, session.anatomy, artifact, read)
    session.ledger.append("timed", "artifact", body | {"predicted": session.latency.predict(session.masks.removed)})


def _deployed(artifact: Path) -> Forward:
    """What runs, opened when it is first asked."""
    opened = cache(lambda: load_deployed(artifact))
    return lambda inputs: opened()(inputs)


def read_by_artifact(session: Session, examples: Examples, artifact: Path) -> Examples:
    """``examples`` as the artifact's own tokenizer cuts them, where tokens went."""
    if session.masks.removed_tokens is None:
        return examples
    return read_by(examples, AutoTokenizer.from_pretrained(artifact))
