"""Mirroring one run: find what an earlier attempt left, add what is missing, mark it complete at the very end."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run as Tracked
from mlflow.tracking.context.registry import resolve_tags

from compress_explain.errors import InputError
from compress_explain.record.outcome import Run

from .addresses import artifact_location, redacted, run_page
from .description import describe, model_name
from .figures import curves, headlines
from .names import slug, tag
from .reach import tracking_at
from .records import find_mirrored, log_datasets, log_missing, parameters
from .served import store_model
from .steps import Step, milliseconds, read_steps
from .uploads import upload_folder
from .versions import register
from .views import views_of

COMPLETE, INCOMPLETE = "complete", "incomplete"
_NOT_MIRRORED = (".lock", "artifact/")  # the artifact goes with the model, once
_EXPERIMENT = "Compressions of one model. Every run is one compression; the runs nested in it are its steps."


def mirror(run: Run, uri: str, *, experiment: str | None, register_as: str | None, inside: str | None = None) -> str:
    """Bring ``run`` into the store at ``uri``, ``inside`` another run of it if given, and return the address of its page.

    Raises:
        InputError: another process is mirroring this folder, the experiment was deleted, or the
            model did not survive the round trip.
    """
    client = MlflowClient(tracking_uri=uri)
    with alone(run.folder):
        experiment_id = experiment_of(client, uri, experiment or model_name(run))
        parent = find_mirrored(
            client, experiment_id, {"identity": run.summary["identity"], "ledger_head": run.ledger.head}
        ) or _start(client, experiment_id, run, inside)
        run_id = parent.info.run_id
        if parent.data.tags.get(tag("mirror")) != COMPLETE:
            _complete(client, run, experiment_id, run_id)
        if register_as and run.passed:
            model_id = client.get_run(run_id).data.tags[tag("model_id")]
            with tracking_at(uri):
                register(client, run, register_as, model_id, run_id)
    return run_page(uri, experiment_id, run_id)


def _complete(client: MlflowClient, run: Run, experiment_id: str, run_id: str) -> None:
    """Everything that a run's page shows; each part adds only what is not there yet."""
    steps = read_steps(run)
    log_datasets(client, run_id, run.summary["splits"], run.summary["settings"].get("data") or {})
    upload_folder(client, run_id, run.folder, _NOT_MIRRORED, views_of(run))
    _mirror_steps(client, experiment_id, run_id, steps)
    model_id = _store_model(client, run, experiment_id, run_id)
    time = milliseconds(run.ledger.records[-1].time)
    tracked = client.get_run(run_id)
    log_missing(client, tracked, headlines(run), time, parameters(run), model_id)
    log_missing(client, tracked, curves(run, steps), time)
    client.set_tag(run_id, "mlflow.note.content", describe(run, f"models:/{model_id}" if model_id else None))
    client.set_terminated(run_id, "FINISHED", end_time=time)
    client.set_tag(run_id, tag("mirror"), COMPLETE)


def experiment_of(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment of this name, made if it is not there."""
    found = client.get_experiment_by_name(name)
    if found is None:
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": _EXPERIMENT}
        return client.create_experiment(name, artifact_location=artifact_location(uri, slug(name)), tags=tags)
    if found.lifecycle_stage != "active":
        where, remedy = f"{name} at {redacted(uri)}", "restore it, or set the registry's experiment to another name"
        raise InputError("mlflow: experiment", where, "this experiment was deleted", remedy)
    return str(found.experiment_id)


def _start(client: MlflowClient, experiment_id: str, run: Run, inside: str | None) -> Tracked:
    facts, ledger = run.summary, run.ledger
    attempted = ledger.find("attempted", "test")
    tags = {
        tag("identity"): facts["identity"],
        tag("ledger_head"): ledger.head,
        tag("state"): facts["state"],
        tag("model_digest"): ledger.records[0].body["model"]["digest"],
        tag("judged_split"): facts["judged_split"],
        tag("protocol"): ledger.records[0].body["protocol"],
        **({} if attempted is None else {tag("attempt"): str(attempted.body["number"])}),
        tag("mirror"): INCOMPLETE,
        "mlflow.note.content": describe(run, None),
        "mlflow.source.name": "compress-explain",
        **({} if inside is None else {"mlflow.parentRunId": inside}),
    }
    started = milliseconds(ledger.records[0].time)
    name = run.folder.resolve().name
    return client.create_run(experiment_id, start_time=started, tags=resolve_tags(tags), run_name=name)


def _mirror_steps(client: MlflowClient, experiment_id: str, run_id: str, steps: list[Step]) -> None:
    condition = f"tags.`mlflow.parentRunId` = '{run_id}'"
    found = client.search_runs([experiment_id], condition, max_results=5000)
    children = {child.data.tags.get(tag("step")): child for child in found}
    for step in steps:
        child = children.get(step.name) or _start_step(client, experiment_id, run_id, step)
        if child.info.status != "FINISHED":
            log_missing(client, child, step.points, step.ended)
            client.set_terminated(child.info.run_id, "FINISHED", end_time=step.ended)


def _start_step(client: MlflowClient, experiment_id: str, run_id: str, step: Step) -> Tracked:
    tags = {
        "mlflow.parentRunId": run_id,
        "mlflow.note.content": step.summary,
        "mlflow.source.name": "compress-explain",
        tag("step"): step.name,
        tag("kind"): step.kind,
    } | ({tag("state"): step.state} if step.state else {})
    return client.create_run(experiment_id, start_time=step.started, tags=resolve_tags(tags), run_name=step.title)


def _store_model(client: MlflowClient, run: Run, experiment_id: str, run_id: str) -> str | None:
    """Store the model if the run wrote one; a run whose model does not come back equal ends as failed."""
    if run.summary["artifact"] is None:
        return None
    try:
        model = store_model(client, run, experiment_id, run_id)
    except InputError:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_tag(run_id, tag("model_id"), model.model_id)
    return str(model.model_id)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second process from mirroring the same folder; one that may not be written to needs no lock."""
    try:
        stream = (folder / ".lock").open("a")
    except OSError:
        yield
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("run", str(folder), "another process is using this folder", "wait for it") from None
        yield
