"""Bringing files into an artifact store: what is there already, and in full, is not sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

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


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` by its relative path."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _sizes(there: List, folder: str | None) -> Iterator[tuple[str, int | None]]:
    for entry in there(folder):
        if entry.is_dir:
            yield from _sizes(there, entry.path)
        else:
            yield entry.path, entry.file_size
