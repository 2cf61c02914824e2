"""``compress-explain latency``: how long a file takes on the machine at hand, written as JSON to be read elsewhere.

Needs Python, numpy and ONNX Runtime, so that it runs on a small device too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress_explain.errors import InputError
from compress_explain.hardware.interleaved import (
    COMPRESSED,
    CONTROL,
    ORIGINAL,
    PATIENCE,
    Action,
    Call,
    Patience,
    interleave,
    pinned,
)
from compress_explain.hardware.machine import machine
from compress_explain.hardware.onnx_file import OnnxFile, digest, onnx_path
from compress_explain.hardware.paired_times import PairedTimes

FORMAT = "compress-explain-latency"
VERSION = 1
ALONE = "artifact"  # the side of a file that is timed against none


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The sizes that are timed: every batch at every number of tokens, on so many threads."""

    batches: tuple[int, ...] = (1, 16)
    tokens: tuple[int, ...] = (128,)
    threads: int = 1

    def __post_init__(self) -> None:
        for name, sizes in (("batch", self.batches), ("tokens", self.tokens), ("threads", (self.threads,))):
            if not sizes or min(sizes) < 1:
                raise InputError(name, list(sizes), "nothing would be measured", "give at least 1")


def write_target(
    artifact: Path,
    out: Path,
    grid: Grid,
    against: Path | None = None,
    patience: Patience = PATIENCE,
) -> dict[str, Any]:
    """Time ``artifact`` here, in turn with the original ``against`` where one is given; what was written is returned.

    Raises:
        InputError: a file that cannot be loaded or run.
    """
    path = onnx_path(artifact)
    original = None if against is None else onnx_path(against)
    points = [
        _point(path, original, batch, tokens, grid.threads, patience)
        for batch in grid.batches
        for tokens in (grid.tokens if OnnxFile(path=path).reads_tokens else grid.tokens[:1])
    ]
    document = {
        "format": FORMAT,
        "version": VERSION,
        "machine": machine(),
        "artifact": {"file": path.name, "sha256": digest(path)},
        "original": None if original is None else {"file": original.name, "sha256": digest(original)},
        "threads": grid.threads,
        "points": points,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    return document


def _point(
    path: Path, original: Path | None, batch: int, tokens: int, threads: int, patience: Patience
) -> dict[str, Any]:
    with pinned(threads):
        mine = OnnxFile(path=path, threads=threads).action(batch, tokens)
        sides: dict[str, Action] = {ALONE: mine}
        if original is not None:
            theirs = OnnxFile(path=original, threads=threads).action(batch, tokens)
            sides = {ORIGINAL: theirs, COMPRESSED: mine, CONTROL: theirs}
        calls = interleave(sides, patience)
    point = {"batch": batch, "tokens": tokens, "calls": [asdict(call) for call in calls]}
    return point | (_alone(calls) if original is None else _compared(calls))


def _alone(calls: Sequence[Call]) -> dict[str, Any]:
    """The artifact's times beside themselves: what is compared is not read."""
    taken = np.array([call.milliseconds for call in calls])
    blocks = taken.reshape(len({call.block for call in calls}), -1)
    times = PairedTimes(original=blocks, compressed=blocks, again=blocks)
    return {"artifact": asdict(times.percentile(50)[1]), "blocks": times.blocks, "n": times.calls}


def _compared(calls: Sequence[Call]) -> dict[str, Any]:
    times = PairedTimes.of(
        (call.block for call in calls), (call.side for call in calls), (call.milliseconds for call in calls)
    )
    original, artifact, _ = times.percentile(50)
    return {
        "original": asdict(original),
        "artifact": asdict(artifact),
        "speedup": asdict(times.speedup),
        "control": asdict(times.control),
        "verdict": times.word,
        "doubt": times.doubt,
        "confidence": times.confidence,
        "blocks": times.blocks,
        "n": times.calls,
    }
