"""The folder of a run: who may write to it, and whether what is in it may be continued."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress_explain.errors import InputError
from compress_explain.record.ledger import Ledger

LEDGER = "ledger.jsonl"
PARTS = ("tables", "predictions", "tensors")


@contextmanager
def open_folder(path: Path, identity: str, *, resume: bool) -> Iterator[Ledger]:
    """Lock the folder for one process and open its ledger.

    Raises:
        InputError: it cannot be written, is in use, or holds another run (or this one, and
            ``resume`` was not asked for).
    """
    _check_writable(path)
    _check_occupant(path, identity, resume=resume)
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "out", str(path), "another process is writing here", "wait for it, or choose another folder"
            ) from None
        for part in PARTS:
            (path / part).mkdir(exist_ok=True)
        yield Ledger(path / LEDGER)


def free_folder(path: Path) -> Path:
    """``path`` itself when nothing is in it, else the first of ``path-2``, ``path-3``, … that is free."""
    candidates = [path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000))]
    return next(folder for folder in candidates if not folder.exists() or not any(folder.iterdir()))


def _check_occupant(path: Path, identity: str, *, resume: bool) -> None:
    if not path.exists() or not any(path.iterdir()):
        return
    ledger_file = path / LEDGER
    if not ledger_file.exists():
        if {entry.name for entry in path.iterdir()} <= {".lock", *PARTS}:
            return  # a run that was stopped before its first record
        raise InputError("out", str(path), "the folder holds other files", "choose an empty or a new folder")
    started = Ledger(ledger_file).find("started", "start")
    there = started.body["identity"] if started else None
    if there is not None and there != identity:
        raise InputError("out", str(path), "the folder holds another run", "choose another folder with --out")
    if not resume:
        raise InputError(
            "out",
            str(path),
            "the folder holds this very run",
            "add --resume to continue it, or choose another folder with --out",
        )


def _check_writable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError("out", str(path), "is a file", "name a folder")
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(parent, os.W_OK):
        raise InputError("out", str(path), f"{parent} may not be written to", "choose another folder with --out")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step, so that a reader or a crash never sees half of it."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(name).chmod(0o644)
    Path(name).replace(path)
