"""What stored predictions cannot tell, measured once of what will be deployed, beside the original."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.predictions import Pairs, logits_of
from compress_explain.comparison.scores import Score
from compress_explain.deployment.manifest import read_manifest
from compress_explain.editing.rounded import let_round
from compress_explain.model.depth import shortened
from compress_explain.record.checkpoint import load_compressed
from compress_explain.record.judged import measure_once
from compress_explain.running.opening import load_deployed
from compress_explain.running.session import Session
from compress_explain.running.shipping import read_by_artifact


def measure(session: Session, artifact: Path, step: str, pairs: Pairs) -> list[Score]:
    """The scores of every evaluator that needs both models; the masks are off meanwhile."""
    with session.masks.untouched():
        return measure_once(
            session.ledger, step, session.job.evaluators, lambda: _contest(session, artifact, pairs), pairs.independent,
            session.progress,
        )  # fmt: skip


def _contest(session: Session, artifact: Path, pairs: Pairs) -> Contest:
    calibration = session.job.splits.calibration
    split = next(split for split in session.job.splits if split.name == pairs.split)
    subject = session.job.subject
    own = subject.processor if subject.kind.reads == "image" else AutoTokenizer.from_pretrained(artifact)
    source = Path(subject.source)
    return Contest(
        original=Side(
            name="original", forward=logits_of(subject.model), examples=split, processor=subject.processor,
            module=subject.model, path=source if source.exists() else None, learning=calibration,
        ),
        compressed=Side(
            name="compressed", forward=load_deployed(artifact), examples=read_by_artifact(session, split, artifact),
            processor=own, module=_in_torch(session, artifact), path=artifact, form=read_manifest(artifact).form.name,
            learning=read_by_artifact(session, calibration, artifact),
        ),
        pairs=pairs,
        batch_size=session.job.batch_size,
        threads=torch.get_num_threads(),
    )  # fmt: skip


def _in_torch(session: Session, artifact: Path) -> PreTrainedModel:
    """What is deployed, for whoever has to look into it: linears that round as those of the file do, and its embeddings."""
    model, masks = load_compressed(artifact), session.masks
    if masks.quantized:
        from compress_explain.deployment.embeddings import tables_in  # seconds to import

        for path, table in tables_in(read_manifest(artifact).check(artifact)).items():
            model.get_submodule(path).weight.data = torch.from_numpy(table).to(model.dtype)
        let_round(model, shortened(session.anatomy, masks.removed), masks.quantized, masks.activations_left())
    return model
