"""What stored predictions cannot tell, measured once of what will be deployed, beside the original."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from transformers import AutoTokenizer

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.predictions import Pairs, logits_of
from compress_explain.comparison.scores import Score
from compress_explain.deployment.manifest import read_manifest
from compress_explain.plugins.evaluator import measuring
from compress_explain.record.checkpoint import load_compressed
from compress_explain.running.opening import load_deployed
from compress_explain.running.session import Session
from compress_explain.running.shipping import read_by_artifact


def measure(session: Session, artifact: Path, step: str, pairs: Pairs) -> list[Score]:
    """Let every evaluator that needs both models look at them; what it saw is stored, and read back on resuming."""
    found: list[Score] = []
    for name, evaluator in measuring(session.job.evaluators).items():
        path = session.table(f"measured-{name}-{step}")
        if not session.ledger.find("measured", f"{name}-{step}"):
            session.progress.say(f"measuring {name} of the original and of what will be deployed")
            with session.masks.untouched(), session.progress.track(name, len(session.split_of(pairs))) as advance:
                table = evaluator.measure(_contest(session, artifact, pairs), advance)
            table.to_parquet(path, index=False)
            session.ledger.append("measured", f"{name}-{step}", {"evaluator": name, "rows": len(table)}, (path,))
        found += evaluator.scores(pd.read_parquet(path))
    return found


def _contest(session: Session, artifact: Path, pairs: Pairs) -> Contest:
    split, subject = session.split_of(pairs), session.job.subject
    reads_text = subject.kind.reads != "image"
    own = AutoTokenizer.from_pretrained(artifact) if reads_text else subject.processor
    source = Path(subject.source)
    return Contest(
        original=Side(
            name="original", forward=logits_of(subject.model), examples=split, processor=subject.processor,
            module=subject.model, path=source if source.exists() else None,
        ),
        compressed=Side(
            name="compressed", forward=load_deployed(artifact), examples=read_by_artifact(session, split, artifact),
            processor=own, module=load_compressed(artifact), path=artifact, form=read_manifest(artifact).form.name,
        ),
        pairs=pairs,
        batch_size=session.job.batch_size,
        threads=torch.get_num_threads(),
    )  # fmt: skip
