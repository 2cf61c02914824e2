"""Whether the tracking store answers, found out in seconds; and MLflow kept from talking while it is used."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from compress_explain.errors import InputError

from .addresses import redacted, sqlite_file

_SILENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",  # seconds
}
_SECONDS = 4.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_LOGGERS = ("mlflow", "alembic", "urllib3")


def check_reachable(uri: str) -> None:
    """Ask the store for one experiment, once and briefly.

    Raises:
        InputError: it does not answer, refuses, or could not be written to.
    """
    _check_database(uri)
    with overridden(_IMPATIENT), quiet(), explained(uri, "cannot be reached"):
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


@contextmanager
def explained(uri: str, what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn any failure of the store into one message.

    Raises:
        InputError: what failed, and how to publish later.
    """
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, requests.RequestException, OSError) as error:
        raise unreachable(uri, f"{what} ({_first_line(error, uri)})", folder) from None


def unreachable(uri: str, problem: str, folder: Path | None = None) -> InputError:
    """The message for a store that does not do what is asked of it."""
    kept = "the run is complete on disk; " if folder else ""
    remedy = (
        f"{kept}start the server or correct MLFLOW_TRACKING_URI, then: compress-explain publish {folder or 'RUN_DIR'}"
    )
    return InputError("mlflow", redacted(uri), problem, remedy)


@contextmanager
def overridden(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables set (or, with None, unset) for a while, then as they were."""
    before = {name: os.environ.get(name) for name in settings}
    _set_environment(settings)
    try:
        yield
    finally:
        _set_environment(before)


@contextmanager
def tracking_at(uri: str) -> Iterator[None]:
    """The process-wide tracking store set for a while: a few calls of MLflow know no other."""
    import mlflow

    with overridden({"MLFLOW_TRACKING_URI": None}):
        before: Any = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # type: ignore[no-untyped-call]
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)


@contextmanager
def quiet() -> Iterator[None]:
    """No telemetry, links, progress bars, log lines or warnings of MLflow; errors still arrive as exceptions."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    import mlflow  # noqa: F401  (importing it sets the levels that are put aside here)

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with overridden(_SILENT), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _set_environment(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _check_database(uri: str) -> None:
    """MLflow retries a database for minutes; a file or a port tells at once."""
    database = sqlite_file(uri)
    if database is not None:
        _check_file(database, uri)
        return
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    if kind in _PORTS and parts.hostname:
        try:
            socket.create_connection((parts.hostname, parts.port or _PORTS[kind]), _SECONDS).close()
        except OSError as error:
            raise unreachable(uri, f"cannot be reached ({error})") from None


def _check_file(database: Path, uri: str) -> None:
    if database.exists():
        with database.open("rb") as stream:
            if stream.read(16) not in (b"", b"SQLite format 3\0"):
                raise unreachable(uri, "not an SQLite database")
    nearest = next(path for path in (database, *database.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        raise unreachable(uri, f"{nearest} may not be written to")


def _first_line(error: BaseException, uri: str) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].replace(uri, redacted(uri))[:200]
