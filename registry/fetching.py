"""Bringing things back from the store: the files of a model, and what a released one decided on its test rows."""

from __future__ import annotations

from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from compress_explain.errors import InputError
from compress_explain.record.champion import PREDICTIONS

from .addresses import redacted
from .reach import tracking_at


def fetch_model(uri: str, address: str, into: Path) -> Path:
    """The files of the model at ``address``, in a folder of ``into``.

    Raises:
        InputError: there is no such model.
    """
    try:
        with tracking_at(uri):  # names of registered models are looked up in the process-wide store only
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(into)))
    except (MlflowException, OSError) as error:
        problem = f"could not be fetched from {redacted(uri)} ({str(error).splitlines()[0][:200]})"
        raise InputError(
            "model", address, problem, "check the address: models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH"
        ) from None


def fetch_predictions(uri: str, address: str, into: Path) -> Path | None:
    """A folder with the test predictions of the run that a registered version came from, or of a run at ``runs:/ID``.

    None when the name or its alias does not exist yet.

    Raises:
        InputError: the address says neither, or that run has no predictions on test rows.
    """
    client = MlflowClient(tracking_uri=uri)
    run_id = _run_of(client, address)
    if run_id is None:
        return None
    folder = into / run_id
    (folder / PREDICTIONS.parent).mkdir(parents=True, exist_ok=True)
    try:
        local = Path(client.download_artifacts(run_id, PREDICTIONS.as_posix(), str(folder)))
        local.replace(folder / PREDICTIONS)
    except (MlflowException, OSError) as error:
        problem = f"its run has no {PREDICTIONS} ({str(error).splitlines()[0][:200]})"
        raise InputError(
            "champion", address, problem, "register versions of runs that were mirrored from here"
        ) from None
    return folder


def _run_of(client: MlflowClient, address: str) -> str | None:
    kind, _, rest = address.partition(":/")
    if kind == "runs" and rest.strip("/"):
        return rest.strip("/").partition("/")[0]
    name, at, alias = rest.strip("/").partition("@")
    if kind != "models" or not name:
        remedy = "write models:/NAME@champion, models:/NAME/VERSION, or the folder of a run"
        raise InputError("champion", address, "not an address in a registry, nor a folder here", remedy)
    try:
        if at:
            return str(client.get_model_version_by_alias(name, alias).run_id)
        name, _, version = name.partition("/")
        return str(client.get_model_version(name, version).run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
