"""Mirroring an observed training: one run whose metrics are what each layer shows of each signal, by training step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as Tracked
from mlflow.tracking.context.registry import resolve_tags

from compress_explain.errors import InputError
from compress_explain.record.ledger import file_digest
from compress_explain.report.observed import sentences
from compress_explain.signals.training.observed import PAGE, SUMMARY, TABLE
from compress_explain.signals.training.observing import ABOVE, BEFORE, CKA, LAST, LOSS, PROBE
from compress_explain.signals.training.over_steps import COURSE, REACH, STRENGTH

from .addresses import run_page
from .mirror import COMPLETE, INCOMPLETE, alone, experiment_of
from .names import Point, flattened, is_finite, slug, tag
from .records import find_mirrored, log_missing
from .uploads import upload_missing

_DIGEST = tag("observed")
_CONTENTS = """\
### Where to look
- **Artifacts → observed.html**: all of it on one page, with intervals and other seeds
- **Model metrics** (step = training step): `course/…` is what a signal shows above the control at its best layer, `course_reach/…` the share of it \
that reaches the last layer, `signal/NAME/…` what each layer shows, `similarity/…` CKA with the last checkpoint and with the one before"""


def mirror_observed(folder: Path, uri: str, *, experiment: str | None) -> str:
    """Bring what was observed into the store at ``uri`` and return the address of its page; what is there is not brought again.

    Raises:
        InputError: nothing was observed in the folder, or the experiment was deleted.
    """
    files = {name: folder / name for name in (TABLE, SUMMARY, PAGE)}
    missing = next((name for name, path in files.items() if not path.exists()), None)
    if missing is not None:
        raise InputError("folder", str(folder), f"{missing} is not in it", "observe a training first")
    summary, table = json.loads(files[SUMMARY].read_text()), pd.read_parquet(files[TABLE])
    client = MlflowClient(tracking_uri=uri)
    with alone(folder):
        experiment_id = experiment_of(client, uri, experiment or summary["training"])
        digest = file_digest(files[TABLE])
        run_id = (
            find_mirrored(client, experiment_id, {"observed": digest}) or _start(client, experiment_id, summary, digest)
        ).info.run_id
        tracked = client.get_run(run_id)
        if tracked.data.tags.get(tag("mirror")) != COMPLETE:
            upload_missing(
                files, there=partial(client.list_artifacts, run_id), send=partial(client.log_artifact, run_id)
            )
            settings = dict(
                flattened({**summary["settings"], "training": summary["training"], "seeds": summary["seeds"]})
            )
            log_missing(client, tracked, list(curves(table)), tracked.info.start_time, settings)
            client.set_terminated(run_id, "FINISHED")
            client.set_tag(run_id, tag("mirror"), COMPLETE)
    return run_page(uri, experiment_id, run_id)  # fmt: skip


def curves(table: pd.DataFrame) -> Iterator[Point]:
    """The first seed's figures as metrics, step = training step: by layer what each signal shows above the control, CKA, and what reaches the last layer."""
    mine = table[table["seed"] == 0]
    for row in mine.to_dict("records"):
        key = _key(row["part"], row["figure"], slug(row["signal"]), slug(row["layer"]))
        if key is not None and is_finite(row["value"]):
            yield Point(key=key, value=float(row["value"]), step=int(row["step"]))


def _key(part: str, figure: str, signal: str, layer: str) -> str | None:
    """The name of a metric; None for what is not shown. MLflow's page sorts them: what sums a signal up comes first, CKA last."""
    if part == LOSS:
        return "loss"
    if part == PROBE and figure == ABOVE:
        return f"signal/{signal}/{layer}"
    if part == COURSE and figure == STRENGTH:
        return f"course/{signal}"
    if part == COURSE and figure == REACH:
        return f"course_reach/{signal}"
    return f"similarity/{slug(figure)}/{layer}" if part == CKA and figure in (LAST, BEFORE) else None


def _start(client: MlflowClient, experiment_id: str, summary: dict[str, Any], digest: str) -> Tracked:
    told = sentences(summary)
    listed = "\n".join(f"- {each}" for each in (*told["signals"], *told["falls"]))
    tags = {
        _DIGEST: digest, tag("kind"): "observed training", tag("mirror"): INCOMPLETE, "mlflow.source.name": "compress-explain",
        "mlflow.note.content": f"## Signals while {summary['training']} was trained\n{listed}\n\n{_CONTENTS}",
    }  # fmt: skip
    return client.create_run(experiment_id, tags=resolve_tags(tags), run_name=f"signals of {summary['training']}")
