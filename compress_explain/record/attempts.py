"""How often a model's test rows were read for a verdict: asking again until the answer is yes has to be seen."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "attempts.jsonl"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The ``number``-th verdict on these rows for something made of this original, as far as the list beside the folder knows."""

    number: int
    model: str
    data: str
    protocol: str
    folder: str

    def facts(self) -> dict[str, Any]:
        return {"number": self.number, "model": self.model, "data": self.data, "protocol": self.protocol}


def count_attempt(folder: Path, *, model: str, data: str, protocol: str) -> Attempt:
    """Enter one more verdict in the list that lies beside ``folder``; ``model``, ``data`` and ``protocol`` are digests."""
    path = folder.absolute().parent / FILE
    with path.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        earlier = sum(_same(line, model, data) for line in stream)
        attempt = Attempt(number=earlier + 1, model=model, data=data, protocol=protocol, folder=folder.name)
        entry = {**attempt.facts(), "folder": folder.name, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        stream.write(json.dumps(entry) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return attempt


def _same(line: str, model: str, data: str) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:  # cut off by a crash
        return False
    return isinstance(entry, dict) and (entry.get("model"), entry.get("data")) == (model, data)
