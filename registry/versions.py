"""A version of a registered model, for runs that passed."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from compress_explain.record.outcome import Run

from .names import tag

ALIAS = "candidate"


def register(client: MlflowClient, run: Run, name: str, model_id: str, run_id: str) -> ModelVersion:
    """The version of ``name`` that is this run's model, created unless it is there; the alias points at it."""
    version = _find(client, name, run.ledger.head)
    if version is not None:
        return version
    _ensure_registered(client, name)
    version = _unfinished(client, name, model_id) or client.create_model_version(
        name, source=f"models:/{model_id}", run_id=run_id, model_id=model_id
    )
    client.set_registered_model_alias(name, ALIAS, version.version)
    client.set_model_version_tag(name, version.version, "validation_status", run.state)
    client.set_model_version_tag(name, version.version, tag("model_id"), model_id)
    client.set_model_version_tag(name, version.version, tag("ledger_head"), run.ledger.head)  # last: now it is complete
    return version


def _find(client: MlflowClient, name: str, ledger_head: str) -> ModelVersion | None:
    return next((each for each in _versions(client, name) if each.tags.get(tag("ledger_head")) == ledger_head), None)


def _unfinished(client: MlflowClient, name: str, model_id: str) -> ModelVersion | None:
    return next((each for each in _versions(client, name) if each.source == f"models:/{model_id}"), None)


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    quoted = name.replace("'", "\\'")
    return list(client.search_model_versions(f"name='{quoted}'", max_results=1000))


def _ensure_registered(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
