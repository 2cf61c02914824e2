"""The append-only record of a run: one JSON line a record, each carrying the hash of the one before.

Bulk tables live beside the ledger; a record holds their digests, so they are part of the chain.
A chain shows that something was changed, not by whom; anchor its head elsewhere (MLflow does) to
notice a truncation as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compress_explain.errors import LedgerError

GENESIS = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Record:
    """One entry: what kind of thing happened at which step, its facts, and the files it wrote."""

    seq: int
    time: str
    kind: str
    step: str
    body: dict[str, Any] = field(repr=False)
    files: dict[str, str] = field(default_factory=dict, repr=False)
    previous: str
    hash: str


class Ledger:
    """Append, read and verify. A record is on disk before :meth:`append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        if path.exists():
            self._drop_incomplete_tail()
            self.records = list(self._read())
            self.verify()

    @property
    def head(self) -> str:
        """The hash of the last record."""
        return self.records[-1].hash if self.records else GENESIS

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def find(self, kind: str, step: str) -> Record | None:
        """The record of this kind at this step, if it happened."""
        return next((record for record in self.records if (record.kind, record.step) == (kind, step)), None)

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def standing(self, kind: str) -> Record | None:
        """The last record of this kind whose step was not taken back."""
        reverted = {record.step for record in self.of_kind("reverted")}
        return next((each for each in reversed(self.of_kind(kind)) if each.step not in reverted), None)

    def append(self, kind: str, step: str, body: dict[str, Any], files: tuple[Path, ...] = ()) -> Record:
        """Write one record and the digests of ``files`` (paths inside the ledger's folder).

        Raises:
            LedgerError: this kind of record was already written at this step.
        """
        if self.find(kind, step):
            raise LedgerError(f"{self.path}: a {kind!r} record for step {step!r} is already there")
        facts: dict[str, Any] = {
            "seq": len(self.records),
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "kind": kind,
            "step": step,
            "body": json.loads(_canonical(body)),
            "files": {file.relative_to(self.path.parent).as_posix(): file_digest(file) for file in files},
            "previous": self.head,
        }
        record = Record(**facts, hash=_hash(facts))
        for file in files:
            _sync(file)
        line = _canonical({**facts, "hash": record.hash}) + "\n"
        with self.path.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.records.append(record)
        return record

    def verify(self) -> None:
        """Recompute the chain and the digest of every file that it names.

        Raises:
            LedgerError: which record or file does not fit, and how.
        """
        previous = GENESIS
        for position, record in enumerate(self.records):
            facts = {key: value for key, value in vars(record).items() if key != "hash"}
            if record.seq != position or record.previous != previous or record.hash != _hash(facts):
                raise LedgerError(f"{self.path}: record {position} was changed, moved or removed")
            for name, digest in record.files.items():
                file = self.path.parent / name
                if not file.exists():
                    raise LedgerError(f"{self.path}: record {position} names {name}, which is missing")
                if file_digest(file) != digest:
                    raise LedgerError(f"{self.path}: {name} differs from what record {position} says of it")
            previous = record.hash

    def _read(self) -> Iterator[Record]:
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream):
                try:
                    facts = json.loads(line)
                    record = Record(**facts)
                    as_written = f"{_canonical(facts)}\n".encode()
                except (ValueError, TypeError) as error:  # not JSON, not UTF-8, not finite; not a record
                    raise LedgerError(f"{self.path}: record {number} is not readable ({error})") from None
                if line != as_written:
                    raise LedgerError(f"{self.path}: record {number} was changed, moved or removed")
                yield record

    def _drop_incomplete_tail(self) -> None:
        """A write cut off by a crash leaves a line without its end; nothing ever relied on it."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with self.path.open("r+b") as stream:
                stream.truncate(data.rfind(b"\n") + 1)
                os.fsync(stream.fileno())


def _sync(path: Path) -> None:
    """A record must not outlive the file that it names."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(facts).encode()).hexdigest()
