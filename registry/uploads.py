"""Bringing files into an artifact store: what is there already, and in full, is not sent again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import FileInfo

List = Callable[[str | None], list[FileInfo]]


@runtime_checkable
class Send(Protocol):
    """Upload one file into a folder of the store."""

    def __call__(self, local_path: str, artifact_path: str | None) -> None: ...


def upload_missing(files: dict[str, Path], there: List, send: Send) -> list[str]:
    """Upload the files (by their path in the store) that are missing there or differ in size; return which."""
    sizes = dict(_sizes(there, None)) if files else {}
    sent = [name for name, path in files.items() if sizes.get(name) != path.stat().st_size]
    for name in sent:
        folder = name.rpartition("/")[0]
        send(str(files[name]), folder or None)
    return sent


def upload_folder(
    client: MlflowClient, run_id: str, folder: Path, leave_out: tuple[str, ...], views: Mapping[str, pd.DataFrame]
) -> None:
    """A folder as it is, but for what begins with one of ``leave_out``, and tables that the run's page can show, by their path."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, table in views.items():
            path = Path(temporary) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_json(path, orient="split", index=False, date_format="iso", double_precision=6)
        mirrored = {name: path for name, path in files_below(folder).items() if not name.startswith(leave_out)}
        upload_missing(
            mirrored | files_below(Path(temporary)), there=partial(client.list_artifacts, run_id),
            send=partial(client.log_artifact, run_id),
        )  # fmt: skip
    if views:
        shown = json.dumps([{"path": name, "type": "table"} for name in views])
        client.set_tag(run_id, "mlflow.loggedArtifacts", shown)


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` by its relative path."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _sizes(there: List, folder: str | None) -> Iterator[tuple[str, int | None]]:
    for entry in there(folder):
        if entry.is_dir:
            yield from _sizes(there, entry.path)
        else:
            yield entry.path, entry.file_size
