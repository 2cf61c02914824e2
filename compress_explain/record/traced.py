"""The stream of a run: found when it begins, recorded, and read again on resuming and replaying."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from compress_explain.editing.dense import refuse_channels
from compress_explain.editing.depgraph import find_stream
from compress_explain.model.anatomy import Anatomy
from compress_explain.model.stream import CHANNEL, stream_of
from compress_explain.record.folder import write_json
from compress_explain.record.ledger import Ledger

if TYPE_CHECKING:
    from compress_explain.running.job import Job

TRACED = "traced"  # where the channels of the stream lie


def with_stream_of(job: Job, anatomy: Anatomy, ledger: Ledger) -> Anatomy:
    """The anatomy with the channels of the stream, where a strategy removes some; as they were found when the run began.

    Raises:
        InputError: channels cannot be removed from this model, or what was asked for cannot be made without them.
    """
    if not any(CHANNEL in strategy.kinds for strategy in job.strategies):
        return anatomy
    if "dense" in job.artifacts:
        refuse_channels()
    if ledger.find(TRACED, "start"):
        return with_traced(anatomy, ledger)
    inputs = next(job.splits.calibration.batches(2)).inputs
    return anatomy.with_stream(find_stream(job.subject.model, anatomy, inputs))


def record_stream(anatomy: Anatomy, ledger: Ledger) -> None:
    """Write down where its channels lie, if that is known and not written yet."""
    stream = anatomy.stream
    if stream is None or ledger.find(TRACED, "start"):
        return
    path = ledger.path.parent / "tables" / "stream.json"
    write_json(path, stream.facts())
    body = {
        "channels": stream.count,
        "parameters": stream.parameters,
        "flops": stream.flops,
        "places": len(stream.places),
    }
    ledger.append(TRACED, "start", body, (path,))


def with_traced(anatomy: Anatomy, ledger: Ledger) -> Anatomy:
    """The anatomy with the channels of the stream where the run found them; without any where it looked for none."""
    record = ledger.find(TRACED, "start")
    if record is None:
        return anatomy
    [file] = record.files
    return anatomy.with_stream(stream_of(json.loads((ledger.path.parent / file).read_text())))
