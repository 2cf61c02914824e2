"""Mirroring a folder to MLflow from the command line: a run, an evaluation, a search, or what was observed of a training."""

from __future__ import annotations

import os
from pathlib import Path

from compress_explain.errors import InputError
from compress_explain.evaluating.evaluated import SUMMARY as EVALUATION
from compress_explain.plugins.catalog import REGISTRIES
from compress_explain.record.outcome import SUMMARY as RUN
from compress_explain.search.found import SUMMARY as SEARCH
from compress_explain.signals.training.observed import SUMMARY as OBSERVED
from compress_explain.terminal.console import output


def publish_folder(folder: Path, tracking_uri: str | None) -> None:
    """Mirror what lies in ``folder``, or complete a mirror that was cut off, and say where it is.

    Raises:
        InputError: nothing finished is in the folder, or the store fails.
    """
    registry = REGISTRIES.build("mlflow", {"tracking_uri": tracking_uri} if tracking_uri else {})
    kinds = {
        RUN: registry.publish, EVALUATION: registry.publish_evaluation, SEARCH: registry.publish_search,
        OBSERVED: registry.publish_observed,
    }  # fmt: skip
    send = next((publish for name, publish in kinds.items() if (folder / name).exists()), None)
    if send is None:
        problem = f"none of {', '.join(kinds)} is in it"
        raise InputError("folder", str(folder), problem, "give the folder of a finished run or evaluation")
    registry.check()
    output().print(f"published: {send(folder)}", highlight=False, soft_wrap=True)


def check_where_asked(tracking_uri: str | None) -> None:
    """See within seconds, before any work, whether the store answers that is given, or in ``MLFLOW_TRACKING_URI``.

    Raises:
        InputError: it does not.
    """
    if uri := _asked_for(tracking_uri):
        REGISTRIES.build("mlflow", {"tracking_uri": uri}).check()


def publish_where_asked(folder: Path, tracking_uri: str | None) -> None:
    """The same where a store is given, or in ``MLFLOW_TRACKING_URI``; else nothing."""
    if uri := _asked_for(tracking_uri):
        publish_folder(folder, uri)


def _asked_for(tracking_uri: str | None) -> str | None:
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
