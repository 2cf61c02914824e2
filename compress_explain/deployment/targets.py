"""What ``compress-explain latency`` measured on other machines, read and put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress_explain.errors import InputError
from compress_explain.hardware.paired_times import Estimate
from compress_explain.hardware.target_file import FORMAT, VERSION

_AGAIN = "write it again with compress-explain latency"


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """One size on one machine: milliseconds of the artifact, and of the original and the saving where both were timed.

    ``speedup`` is how many times as fast the artifact is, in the same process; ``verdict`` says it in a word. ``doubt`` says why it
    cannot be told. ``n`` are calls of either file.
    """

    machine: str
    processor: str
    cores: int | None
    sha256: str
    batch: int
    tokens: int
    threads: int
    artifact: Estimate
    original: Estimate | None
    speedup: Estimate | None
    verdict: str
    doubt: str
    n: int


def read_targets(paths: Sequence[Path], sha256: str | None = None) -> tuple[TargetRow, ...]:
    """Every size of every file, in the order of the files; ``sha256`` is that of the artifact that they must be about.

    Raises:
        InputError: a file that is no such file, was written by a newer version, or is about another artifact.
    """
    return tuple(row for path in paths for row in _rows(path, sha256))


def targets_of(folder: Path) -> tuple[TargetRow, ...]:
    """What a run has taken in of other machines."""
    return read_targets(sorted((folder / "targets").glob("*.json")))


def _rows(path: Path, sha256: str | None) -> list[TargetRow]:
    document = _document(path)
    try:
        about = document["artifact"]["sha256"]
        rows = [_row(path, document, point) for point in document["points"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError("targets", str(path), "it lacks what a target file holds", _AGAIN) from None
    if sha256 is not None and about != sha256:
        raise InputError("targets", str(path), "it timed another artifact", "time the one of this run there")
    return rows


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("targets", str(path), error.strerror or "cannot be read", "give a file that exists") from None
    except ValueError:
        raise InputError("targets", str(path), "not JSON", _AGAIN) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError("targets", str(path), f"not a {FORMAT} file", _AGAIN)
    if not isinstance(document.get("version"), int) or document["version"] > VERSION:
        raise InputError("targets", str(path), "written by a newer version", "upgrade compress-explain")
    return document


def _row(path: Path, document: dict[str, Any], point: dict[str, Any]) -> TargetRow:
    machine = document["machine"]
    compared = document["original"] is not None
    return TargetRow(
        machine=path.stem,
        processor=str(machine["processor"]),
        cores=machine["cores"],
        sha256=str(document["artifact"]["sha256"]),
        batch=int(point["batch"]),
        tokens=int(point["tokens"]),
        threads=int(document["threads"]),
        artifact=Estimate(**point["artifact"]),
        original=Estimate(**point["original"]) if compared else None,
        speedup=Estimate(**point["speedup"]) if compared else None,
        verdict=str(point["verdict"]) if compared else "",
        doubt=str(point["doubt"]) if compared else "",
        n=int(point["n"]),
    )
