"""Where a tracking store is, where its artifacts go, and how both are shown to a person."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_SERVED = ("http", "https", "databricks", "uc", "databricks-uc")  # a server decides where artifacts go


def resolve_tracking_uri(explicit: str | None) -> str:
    """The tracking store to use: what was given, else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in this folder.

    >>> resolve_tracking_uri("http://localhost:5000/")
    'http://localhost:5000'
    """
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    return uri.rstrip("/") if is_http(uri) else uri


def is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The database file of an SQLite address, None for any other.

    >>> sqlite_file("sqlite:////srv/mlflow.db").as_posix()
    '/srv/mlflow.db'
    """
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix).partition("?")[0]).absolute() if uri.startswith(prefix) else None


def artifact_location(uri: str, folder: str) -> str | None:
    """Where a new experiment keeps its artifacts: beside an SQLite file; None where a server decides."""
    if uri.partition(":")[0] in _SERVED:
        return None
    database = sqlite_file(uri)
    beside = database.parent if database else Path.cwd()
    return (beside / "mlruns" / folder).as_uri()


def redacted(uri: str) -> str:
    """The address without its password.

    >>> redacted("https://ann:secret@example.org/mlflow")
    'https://ann:***@example.org/mlflow'
    """
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    credentials, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials.partition(':')[0]}:***@{host}"))


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """The address of a run's page; for a database, the same path as its user interface will show it under."""
    parts = urlsplit(uri)
    route = f"#/experiments/{experiment_id}/runs/{run_id}"
    if not is_http(uri):
        return redacted(uri) + route
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) + "/" + route
